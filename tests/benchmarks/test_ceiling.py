"""Parts left out of a network, and the ceilings beside it."""

import itertools

import torch
from torch import nn

from benchmarks.ceiling import VARIANTS, Ceiling, format_shares, measure, without
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.bimamba import BiMamba
from mobilemamba.wavelet_mamba import WaveletMamba

CONFIG = MobileMambaConfig(widths=(32, 40, 48), num_classes=5)


def parts(network: nn.Module) -> tuple[bool, bool]:
    """Whether blocks of a network scan, and whether they have wavelets."""
    mixer = next(module for module in network.modules() if isinstance(module, WaveletMamba))
    return isinstance(mixer.mamba, BiMamba), mixer.wavelet is not None


def test_parts_are_left_out() -> None:
    network, images = MobileMamba(CONFIG).eval(), torch.randn(1, 3, 64, 64)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    kept, logits = {}, []
    for variant in VARIANTS:
        changed = without(network, variant)
        kept[variant] = parts(changed)
        logits.append(changed(images))
    assert kept == {
        "": (True, True),
        " without scan": (False, True),
        " without wavelets": (True, False),
        " without both": (False, False),
    }
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(logits, 2))


def test_the_longer_of_arithmetic_and_weights_is_the_least_time() -> None:
    ceiling = Ceiling(macs_per_second=1e12, bytes_per_second=1e9)
    shares = measure("mobilemamba_t2", "shvit_s1", ["fused"], 1, 1, ceiling, torch.device("cpu"))
    assert [share.network for share in shares] == ["shvit_s1", *(f"mobilemamba_t2{variant}" for variant in VARIANTS)]
    whole = shares[1]
    assert whole.least_milliseconds == whole.weight_bytes / 1e6  # 1e9 bytes a second, in milliseconds
    assert whole.weight_bytes > 4 * 8e6
    assert "mobilemamba_t2 without both" in format_shares(shares, "shvit_s1")
