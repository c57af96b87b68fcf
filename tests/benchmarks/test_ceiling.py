import itertools

import pytest
import torch
from torch import nn

from benchmarks.ceiling import VARIANTS, Ceiling, measure, without
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.bimamba import BiMamba
from mobilemamba.wavelet_mamba import WaveletMamba

CPU = torch.device("cpu")


def parts(network: nn.Module) -> tuple[bool, bool]:
    """Whether blocks of a network scan, and whether they have wavelets."""
    mixer = next(module for module in network.modules() if isinstance(module, WaveletMamba))
    return isinstance(mixer.mamba, BiMamba), mixer.wavelet is not None


def test_parts_are_left_out() -> None:
    network = MobileMamba(MobileMambaConfig(widths=(32, 40, 48), depths=(1, 1, 1), num_classes=5)).eval()
    images = torch.randn(1, 3, 64, 64)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    changed = [without(network, variant) for variant in VARIANTS]
    assert [parts(one) for one in changed] == [(True, True), (False, True), (True, False), (False, False)]
    logits = [one(images) for one in changed]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(logits, 2))


@pytest.mark.usefixtures("tiny_networks")
def test_the_longer_of_arithmetic_and_weights_is_the_least_time() -> None:
    shares = measure("mobilemamba_t2", "shvit_s1", ["fused"], 1, 1, Ceiling(1e15, 1e9), CPU)
    assert [share["network"] for share in shares] == ["shvit_s1", *(f"mobilemamba_t2{one}" for one in VARIANTS)]
    assert shares[1]["least_milliseconds"] == pytest.approx(shares[1]["weight_bytes"] / 1e6)  # 1e9 bytes a second
    by_arithmetic = measure("mobilemamba_t2", "shvit_s1", ["fused"], 1, 1, Ceiling(1e3, 1e15), CPU)[1]
    assert by_arithmetic["least_milliseconds"] == pytest.approx(by_arithmetic["macs"])
