import os
import time
from shutil import which

import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit

from benchmarks import forms
from benchmarks.accuracy import PEERS, published
from benchmarks.measurement import Measurement, measure
from benchmarks.networks import Candidate, all_compiled, fused
from benchmarks.picture import draw
from benchmarks.training_step import TrainingStep
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


def test_a_form_that_cannot_run_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    forms.check_forms(["eager", "fused", "compiled", "compiled-eager", "training"], torch.device("meta"))
    with pytest.raises(UserError, match="'onnx' can only be measured on the CPU, not meta"):
        forms.check_forms(["eager", "onnx"], torch.device("meta"))
    monkeypatch.setattr(export_formats, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'pip install "\.\[litert\]"'):
        forms.check_forms(["litert"], CPU)


@pytest.mark.parametrize(
    "form",
    [
        "onnx",
        "onnx-float16",
        "pt2",
        pytest.param("aoti", marks=pytest.mark.slow),  # compiling takes half a minute
        "openvino",
        "executorch",
        "litert",
    ],
)
def test_every_exported_form_answers_as_the_network(form: forms.Form) -> None:
    for package in FORMATS[form].packages:  # type: ignore[index]
        pytest.importorskip(package, reason=f"extra {form!r} is not installed")
    if form == "aoti" and which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler")
    network, images = small_network(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)
    answer = forms.call_of(network, images, form)()
    if form == "onnx-float16":
        assert 1e-5 < (answer - expected).abs().max() / expected.abs().max() < 2e-3
    else:
        torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-5)


def test_compiled_forms_are_fused_or_not_and_all_networks_of_a_class_are_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs: list[torch.fx.GraphModule] = []
    compiled = torch.compile
    count = lambda graph, _: graphs.append(graph) or graph.forward  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(torch, "compile", lambda network: compiled(network, backend=count))
    monkeypatch.setattr(forms, "fused", lambda network: nn.Sequential(network, nn.Hardtanh(-1e9, 1e9)))
    candidates = [Candidate(str(size), nn.Sequential(nn.Conv2d(3, size, 1)).eval(), (3, 8, 8)) for size in range(1, 11)]
    measure(candidates, [("compiled-eager", 1), ("compiled", 1)], "1", 1, 1, CPU)
    operators = [sum(node.op == "call_function" for node in graph.graph.nodes) for graph in graphs]
    assert operators == [1, 2] * 10


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
        forms.call_of(Branching(), torch.randn(1, 3, 4, 4), "pt2")


def test_a_form_with_other_answers_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "fused", lambda network: nn.Sequential(network, nn.Softmax(1)))
    candidate = Candidate("small", small_network(), (3, 8, 8))
    with pytest.raises(UserError, match="small as fused differs from eager"):
        measure([candidate], [("fused", 1)], "small", 1, 1, CPU)


def test_ratios_are_to_the_same_form_and_batch_size() -> None:
    candidates = [Candidate(name, small_network(), (3, 16, 16)) for name in ("a", "b")]
    kinds: list[tuple[forms.Form, int]] = [("eager", 1), ("fused", 1), ("fused", 4), ("training", 4)]
    results = measure(candidates, kinds, "b", 2, 1, CPU)
    assert [(result.network, result.form, result.batch_size) for result in results] == [
        (name, *kind) for name in "ab" for kind in kinds
    ]
    for result, base in zip(results, results[4:] * 2, strict=True):
        assert result.ratio_of_minima == result.timing.minimum / base.timing.minimum
        assert result.ratio_of_medians == result.timing.median / base.timing.median
        assert result.memory_ratio == (1.0 if result.form == "training" else None)
        assert result.parameters == 3 * 4 * 9 + 4 + 4 + 4 + 4 * 5 + 5
        assert result.macs == 14 * 14 * 3 * 9 * 4 + 4 * 5


def test_what_is_prepared_counts_until_the_first_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(network: nn.Module) -> nn.Module:
        time.sleep(0.2)
        return network

    monkeypatch.setattr(forms, "fused", slowly)
    candidate = Candidate("small", small_network(), (3, 8, 8))
    prepared, training = measure([candidate], [("fused", 1), ("training", 1)], "small", 1, 1, CPU)
    assert prepared.seconds_until_first is not None
    assert prepared.seconds_until_first > 0.2 > prepared.timing.minimum / 1e3
    assert training.seconds_until_first is None


def test_memory_of_a_step_counts_each_activation_once_and_no_parameter() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    # Kept: the input; the ReLU's output, which the second layer shares; logarithms of probabilities; classes; a weight.
    expected = 4 * (5 * 8 + 5 * 16 + 5 * 2 + 1) + 8 * 5
    assert TrainingStep(network, torch.randn(5, 8)).megabytes_per_image() == pytest.approx(expected / 5 / 1e6)


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
    assert published("mobilemamba_s6.in1k", (224, 224)) == (78.0, 80.7)
    unknown = [("mobilemamba_s6", (256, 256)), ("shvit_s3", (224, 256)), ("resnet50", (224, 224))]
    assert [published(*one) for one in unknown] == [(None, None)] * 3
    for name, figures in PEERS.items():
        assert timm.get_pretrained_cfg(name).input_size == (3, figures.image_size, figures.image_size)


def test_picture_shows_both_accuracies_of_networks_that_have_them() -> None:
    names = ("mobilemamba_s6", "shvit_s3", "repvit_m1_0", "resnet50")
    about = ((224, 224), 1, 15_000_000, 10**9, Timing(4.0, 5.0, 3), 1.0, 1.0)
    others = Measurement("shvit_s3", "fused", (224, 224), 8, *about[2:])
    measured = [*(Measurement(name, "eager", *about) for name in names), others]
    figure = draw(measured, "title", {"elsewhere": {("mobilemamba_s6", (224, 224)): 11_000.0}})
    assert [axes.get_title() for axes in figure.axes] == ["eager, batch 1", "fused, batch 8", "elsewhere"]
    places = [[line.get_xdata()[0] for line in axes.lines if line.get_marker() != "None"] for axes in figure.axes]
    assert places == [[250.0] * 4, [2000.0], [11_000.0] * 2]
    axes = figure.axes[0]
    points = [(line.get_ydata()[0], line.get_markerfacecolor()) for line in axes.lines if line.get_marker() != "None"]
    expected = [(78.0, False), (80.7, True), (77.4, False), (80.0, True)]
    assert [(top1, face == "white") for top1, face in points] == expected
    assert [text.get_text() for text in axes.texts] == ["S6"]
    assert [text.get_text() for text in figure.legends[0].texts][2:] == list(names[1:3])
