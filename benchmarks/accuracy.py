"""Published accuracy and speed of networks, to set beside measured speed."""

from __future__ import annotations

from typing import NamedTuple

from mobilemamba.variants import VARIANTS


class Published(NamedTuple):
    """Top-1 on ImageNet-1k in percent that a paper reports; None where it has no such figure."""

    image_size: int
    source: str
    top1: float | None = None
    top1_distilled: float | None = None


PEERS: dict[str, Published] = {
    "efficientvit_m5": Published(224, "arXiv:2305.07027", 77.1),
    "shvit_s2": Published(224, "arXiv:2401.16456", 75.2),
    "shvit_s3": Published(224, "arXiv:2401.16456", 77.4),
    "shvit_s4": Published(256, "arXiv:2401.16456", 79.4),
    "efficientvim_m3": Published(224, "arXiv:2411.15241", 77.6, 79.1),
    "efficientvim_m4": Published(256, "arXiv:2411.15241", 79.4, 80.7),
    "starnet_s4": Published(224, "arXiv:2403.19967", 78.8),
    "mobilenetv4_conv_medium": Published(256, "arXiv:2404.10518", 79.9),
    "repvit_m1_0": Published(224, "arXiv:2307.09283", None, 80.0),
    "fastvit_t12": Published(256, "arXiv:2303.14189", 79.3, 80.3),
}
"""Networks of timm by name. Other sizes than a paper's have other accuracies."""

PUBLISHED_RATES: dict[str, int] = {
    "mobilemamba_t2": 21_000,
    "mobilemamba_t4": 16_500,
    "mobilemamba_s6": 11_000,
    "mobilemamba_b1": 7_000,
    "mobilemamba_b2": 3_200,
    "mobilemamba_b4": 1_900,
    "efficientvim_m3": 11_952,
    "efficientvim_m4": 8_170,
}
"""Images/s in the papers of Mamba-based networks, each on its authors' GPU; MobileMamba's are read off a plot."""


def published(network: str, image_size: tuple[int, int]) -> tuple[float | None, float | None]:
    """Return top-1 in percent of a timm name, with or without tag, at this size in pixels.

    Returns:
        Trained from labels alone, and with a teacher; None for what is not known. Schedules differ between papers.
    """
    name = network.split(".")[0]
    figures = VARIANTS.get(name) or PEERS.get(name)
    if figures is None or image_size != (figures.image_size,) * 2:
        return None, None
    return figures.top1, figures.top1_distilled
