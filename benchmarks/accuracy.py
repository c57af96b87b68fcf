"""Published accuracy of networks, to set beside measured latency."""

from __future__ import annotations

from dataclasses import dataclass

from mobilemamba.variants import VARIANTS


@dataclass(frozen=True)
class Published:
    """Top-1 on ImageNet-1k that a paper reports.

    Args:
        image_size: Height and width in pixels.
        source: The paper.
        top1: Percent, trained from labels alone; None where the paper has no such figure.
        top1_distilled: Percent, trained with a teacher, too; None likewise. Schedules differ between papers.
    """

    image_size: int
    source: str
    top1: float | None = None
    top1_distilled: float | None = None


PEERS: dict[str, Published] = {
    "efficientvit_m5": Published(224, "arXiv:2305.07027", 77.1),
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


def published(network: str, image_size: tuple[int, int]) -> Published | None:
    """Return what is published of a timm name, with or without tag, at this size; None where nothing is known here."""
    name = network.split(".")[0]
    figures = PEERS.get(name)
    if name in VARIANTS:
        variant = VARIANTS[name]
        figures = Published(variant.image_size, "arXiv:2411.15941", variant.top1, variant.top1_distilled)
    return figures if figures is not None and image_size == (figures.image_size,) * 2 else None
