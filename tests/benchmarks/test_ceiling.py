"""Parts left out of a network, and the ceilings beside it."""

import torch
from torch import nn

from benchmarks.ceiling import VARIANTS, Ceiling, format_shares, measure, without
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.bimamba import FusedBiMamba
from mobilemamba.wavelet_mamba import WaveletMamba

CONFIG = MobileMambaConfig(widths=(32, 40, 48), num_classes=5)


def parts(network: nn.Module) -> tuple[bool, bool]:
    """Whether blocks of a network scan, and whether they have wavelets."""
    (mixer, *_), (mamba, *_) = (
        [module for module in network.modules() if isinstance(module, kind)] for kind in (WaveletMamba, FusedBiMamba)
    )
    assert isinstance(mixer, WaveletMamba)
    assert isinstance(mamba, FusedBiMamba)
    u = torch.randn(1, 4, 4, mamba.conv.in_channels)
    scans = [not torch.equal(scan(u), u) for scan in (mamba._scan_rows, mamba.scan_by_kernel)]
    assert scans[0] == scans[1]
    return scans[0], mixer.wavelet is not None


def test_parts_are_left_out() -> None:
    network = MobileMamba(CONFIG).eval()
    kept = {variant: parts(without(network, variant)) for variant in VARIANTS}
    assert kept == {
        "": (True, True),
        " without scan": (False, True),
        " without wavelets": (True, False),
        " without both": (False, False),
    }


def test_the_longer_of_arithmetic_and_weights_is_the_least_time() -> None:
    ceiling = Ceiling(macs_per_second=1e12, bytes_per_second=1e9)
    shares = measure("mobilemamba_t2", "shvit_s1", ["fused"], 1, 1, ceiling, torch.device("cpu"))
    assert [share.network for share in shares] == ["shvit_s1", *(f"mobilemamba_t2{variant}" for variant in VARIANTS)]
    whole = shares[1]
    assert whole.least_milliseconds == whole.weight_bytes / 1e6  # 1e9 bytes a second, in milliseconds
    assert whole.weight_bytes > 4 * 8e6
    assert "mobilemamba_t2 without both" in format_shares(shares, "shvit_s1")
