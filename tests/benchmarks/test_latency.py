import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import latency
from benchmarks.networks import Contender, fused
from mobilemamba import MobileMamba, MobileMambaConfig

CPU = torch.device("cpu")


@pytest.fixture
def contenders(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(name: str, device: torch.device) -> Contender:
        torch.manual_seed(0)
        network: nn.Module = (
            MobileMamba(MobileMambaConfig(widths=(16, 16, 16), depths=(1, 1, 1), num_classes=5))
            if name == "ours"
            else nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        )
        return Contender(name, network.to(device).eval(), (3, 64, 64))

    monkeypatch.setattr(latency, "build", build)


@pytest.mark.usefixtures("contenders")
def test_command_measures_every_form_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "latency.json"
    latency.main(["ours", "--reference", "peer", "--rounds", "1", "--repeats", "1", "--output", str(output)])
    printed = capsys.readouterr().out
    assert "minimum / peer" in printed
    content = json.loads(output.read_text())
    assert content["settings"] == {"batch_size": 1, "rounds": 1, "repeats": 1}
    results = {(result["network"], result["form"]): result for result in content["results"]}
    assert results.keys() == {(name, form) for name in ("ours", "peer") for form in ("eager", "fused", "onnx")}
    for (name, _), result in results.items():
        assert result["max_difference"] < 1e-4
        assert result["timing"]["minimum"] > 0
        assert (name == "peer") == (result["ratio_of_minima"] == 1.0)


@pytest.mark.usefixtures("contenders")
def test_onnx_on_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'onnx' is measured on the CPU, not on meta"):
        latency._onnx_call(nn.Identity(), torch.empty(1, 3, 64, 64, device="meta"))


def test_a_form_with_other_answers_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "fused", lambda network: nn.Linear(4, 2))
    contender = Contender("linear", nn.Linear(4, 2), (3, 4, 4))
    with pytest.raises(RuntimeError, match="linear as fused differs from eager"):
        latency.measure([contender], ["fused"], "linear", 1, 1, 1, CPU)


def test_networks_of_timm_are_fused_by_their_own_means() -> None:
    import timm

    network = timm.create_model("shvit_s1", num_classes=3).eval()
    images = torch.randn(1, 3, 64, 64)
    folded = fused(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-4)
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in n.modules()) for n in (network, folded)]
    assert count[0] > 0
    assert count[1] == 0
