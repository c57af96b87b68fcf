import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit

from benchmarks import forms, latency
from benchmarks.accuracy import PEERS, published
from benchmarks.networks import Candidate, all_compiled, fused
from benchmarks.picture import draw
from mobilemamba.errors import UserError
from mobilemamba.export import formats as export_formats
from mobilemamba.export.formats import FORMATS
from mobilemamba.export.timing import Timing

CPU = torch.device("cpu")


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    ).eval()


def timed(network: str, size: int, form: forms.Form = "eager", batch_size: int = 1) -> latency.Latency:
    return latency.Latency(network, form, (size, size), batch_size, 15_000_000, 10**9, Timing(4.0, 5.0, 3), 1, 1, 0)


def test_a_form_that_cannot_run_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forms.check_forms(["eager", "fused", "compiled", "compiled-eager"], torch.device("meta"))
    with pytest.raises(UserError, match="'onnx' is measured on the CPU, not on meta"):
        forms.check_forms(["eager", "onnx"], torch.device("meta"))
    monkeypatch.setattr(export_formats, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'pip install "\.\[litert\]"'):
        forms.check_forms(["litert"], CPU)


@pytest.mark.parametrize("form", ["onnx", "pt2", "openvino", "executorch", "litert"])
def test_every_exported_form_answers_as_the_network(form: forms.Form) -> None:
    for package in FORMATS[form].packages:  # type: ignore[index]
        pytest.importorskip(package, reason=f"extra {form!r} is not installed")
    network, images = small_network(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(forms.call_of(network, images, form, autocast=False)(), expected, rtol=1e-4, atol=1e-5)


def test_compiled_forms_are_fused_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    network = small_network()
    for form in ("compiled", "compiled-eager"):
        forms.call_of(network, torch.randn(1, 3, 16, 16), form, autocast=False)()  # type: ignore[arg-type]
    assert compiled[0] is not network
    assert compiled[1] is network


def test_every_network_of_a_class_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneLayer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    graphs: list[torch.fx.GraphModule] = []
    compiled = torch.compile
    count = lambda graph, _: graphs.append(graph) or graph.forward  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(torch, "compile", lambda network: compiled(network, backend=count))
    candidates = [Candidate(str(width), OneLayer(width).eval(), (3, 8, 8)) for width in range(1, 11)]
    latency.measure(candidates, ["compiled-eager"], "1", [1], 1, 1, CPU)
    assert len(graphs) == 10


def test_a_network_too_many_to_be_compiled_is_an_error() -> None:
    compiled = torch.compile(lambda x, factor: x * factor, backend="eager", dynamic=False)
    with all_compiled(limit=2):
        for factor in range(2):
            compiled(torch.ones(2), factor)
        with pytest.raises(FailOnRecompileLimitHit):
            compiled(torch.ones(2), 2)


def test_a_network_that_no_exporter_takes_is_named() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"Form 'pt2' does not take Branching .*: leave it out of --forms"):
        forms.call_of(Branching(), torch.randn(1, 3, 4, 4), "pt2", autocast=False)


def test_a_form_with_other_answers_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        forms,
        "fused",
        lambda network: small_network().apply(lambda m: nn.init.ones_(m.weight) if isinstance(m, nn.Linear) else None),
    )
    candidate = Candidate("small", small_network(), (3, 8, 8))
    with pytest.raises(UserError, match="small as fused differs from eager"):
        latency.measure([candidate], ["fused"], "small", [1], 1, 1, CPU)


def test_ratios_are_to_the_same_form_and_batch_size() -> None:
    candidates = [Candidate(name, small_network(), (3, 16, 16)) for name in ("a", "b")]
    results = latency.measure(candidates, ["eager", "fused"], "b", [1, 4], 2, 1, CPU)
    times = {(result.network, result.form, result.batch_size): result for result in results}
    assert len(times) == 8
    for (_, form, batch_size), result in times.items():
        base = times["b", form, batch_size].timing
        assert result.ratio_of_minima == result.timing.minimum / base.minimum
        assert result.images_per_second == pytest.approx(1e3 * batch_size / result.timing.minimum)
        assert result.parameters == 3 * 4 * 9 + 4 + 4 + 4 + 4 * 5 + 5
        assert result.macs == 14 * 14 * 3 * 9 * 4 + 4 * 5


def test_networks_of_timm_are_fused_by_their_own_means() -> None:
    network = timm.create_model("shvit_s1", num_classes=3).eval()
    images = torch.randn(1, 3, 64, 64)
    folded = fused(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in n.modules()) for n in (network, folded)]
    assert count[0] > 0
    assert count[1] == 0


def test_published_accuracy_is_that_of_the_measured_size() -> None:
    figures = published("mobilemamba_s6.in1k", (224, 224))
    assert figures is not None
    assert (figures.top1, figures.top1_distilled) == (78.0, 80.7)
    unknown = [("mobilemamba_s6", (256, 256)), ("shvit_s3", (224, 256)), ("resnet50", (224, 224))]
    assert [published(*one) for one in unknown] == [None] * 3


def test_peers_are_networks_of_timm_at_their_size() -> None:
    for name, figures in PEERS.items():
        assert timm.get_pretrained_cfg(name).input_size == (3, figures.image_size, figures.image_size)
        assert figures.source.startswith("arXiv:")
        assert (figures.top1 or figures.top1_distilled) is not None


def test_picture_shows_both_accuracies_of_networks_that_have_them() -> None:
    results = [timed("mobilemamba_s6", 224), timed("shvit_s3", 224), timed("repvit_m1_0", 224), timed("resnet50", 224)]
    figure = draw([*results, timed("shvit_s3", 224, "fused", 8)], "title")
    assert [axes.get_title() for axes in figure.axes] == ["eager, batch 1", "fused, batch 8"]
    axes = figure.axes[0]
    points = [(line.get_ydata()[0], line.get_markerfacecolor()) for line in axes.lines if line.get_marker() == "o"]
    expected = [(78.0, False), (80.7, True), (77.4, False), (80.0, True)]
    assert [(top1, face == "white") for top1, face in points] == expected
    assert [text.get_text() for text in axes.texts] == ["mobilemamba_s6", "shvit_s3", "repvit_m1_0"]
