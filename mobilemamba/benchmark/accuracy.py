"""Published accuracy of networks, to set beside measured latency."""

from __future__ import annotations

from mobilemamba.variants import VARIANTS

PEERS: dict[str, tuple[float, str]] = {
    "efficientvit_m5": (77.1, "arXiv:2305.07027"),
    "shvit_s3": (77.4, "arXiv:2401.16456"),
    "shvit_s4": (79.4, "arXiv:2401.16456"),
    "efficientvim_m3": (77.6, "arXiv:2411.15241"),
    "efficientvim_m4": (79.4, "arXiv:2411.15241"),
    "mobilenetv4_conv_medium": (79.9, "arXiv:2404.10518"),
}
"""Top-1 on ImageNet-1k in percent, without teacher, and the paper that says so."""


def published_top1(network: str) -> float | None:
    """Return the published top-1 in percent of a timm name, trained without teacher; None where none is known here."""
    if network in VARIANTS:
        return VARIANTS[network].top1
    return PEERS[network][0] if network in PEERS else None
