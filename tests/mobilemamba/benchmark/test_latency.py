import pytest
import torch
from torch import nn

from mobilemamba.benchmark import latency
from mobilemamba.benchmark.networks import BenchmarkError, Contender, fused

CPU = torch.device("cpu")


def test_onnx_on_another_device_is_refused() -> None:
    with pytest.raises(BenchmarkError, match="'onnx' is measured on the CPU, not on meta"):
        latency._onnx_call(nn.Identity(), torch.empty(1, 3, 64, 64, device="meta"))


def test_a_form_with_other_answers_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "fused", lambda network: nn.Linear(4, 2))
    contender = Contender("linear", nn.Linear(4, 2), (3, 4, 4))
    with pytest.raises(BenchmarkError, match="linear as fused differs from eager"):
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
