import itertools

import pytest
import torch
from torch import nn

from benchmarks import ceiling
from benchmarks.ceiling import VARIANTS, Ceiling, format_shares, measure, without
from benchmarks.networks import Candidate
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.bimamba import BiMamba
from mobilemamba.wavelet_mamba import WaveletMamba

CONFIG = MobileMambaConfig(widths=(32, 40, 48), depths=(1, 1, 1), num_classes=5)


def parts(network: nn.Module) -> tuple[bool, bool]:
    """Whether blocks of a network scan, and whether they have wavelets."""
    mixer = next(module for module in network.modules() if isinstance(module, WaveletMamba))
    return isinstance(mixer.mamba, BiMamba), mixer.wavelet is not None


def test_parts_are_left_out() -> None:
    network, images = MobileMamba(CONFIG).eval(), torch.randn(1, 3, 64, 64)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    changed = [without(network, variant) for variant in VARIANTS]
    assert [parts(one) for one in changed] == [(True, True), (False, True), (True, False), (False, False)]
    logits = [one(images) for one in changed]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(logits, 2))


def test_the_longer_of_arithmetic_and_weights_is_the_least_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = MobileMamba(CONFIG).eval()
    monkeypatch.setattr(ceiling, "build", lambda name, device: Candidate(name, network, (3, 64, 64)))
    shares = measure("ours", "other", ["fused"], 1, 1, Ceiling(1e15, 1e9), torch.device("cpu"))
    assert [share.network for share in shares] == ["other", *(f"ours{variant}" for variant in VARIANTS)]
    whole = shares[1]
    assert whole.least_milliseconds == whole.weight_bytes / 1e6  # 1e9 bytes a second, in milliseconds
    by_arithmetic = measure("ours", "other", ["fused"], 1, 1, Ceiling(1e3, 1e15), torch.device("cpu"))[1]
    assert by_arithmetic.least_milliseconds == by_arithmetic.macs > 0
    assert "ours without both" in format_shares(shares, "other")
