"""Measures a contribution map: the share within given radii, and the size of the square that holds a given share.

Circles and squares are centred on the map's median: the pixel with half of all contributions on either side, along each
axis. The middle of a feature map is not always the middle of the image, and an offset of half a stride would make the
field look wider.

The squares are those of RepLKNet (Ding et al., CVPR 2022; github.com/DingXiaoH/RepLKNet-pytorch/tree/main/
erf), which takes log10(1 + x) of the contributions first. Here shares are of the contributions themselves: the
logarithm depends on their scale, and so on the number of images and the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SQUARE_SHARES = (0.2, 0.3, 0.5, 0.99)
"""Shares in RepLKNet's table."""


@dataclass(frozen=True)
class Circle:
    """Contributions within a circle, including pixels whose centres lie on it.

    Args:
        radius: Radius in pixels.
        radius_fraction: Radius relative to the image's shorter side.
        share: Share of all contributions, 0 to 1.
    """

    radius: int
    radius_fraction: float
    share: float


@dataclass(frozen=True)
class Square:
    """The smallest square that holds a share.

    Args:
        share: Smallest share of all contributions, 0 to 1.
        side: Side in pixels: odd, or the image's longer side if the square would be larger.
        side_fraction: Side relative to the image's shorter side.
        area_fraction: Share of the image's pixels inside.
    """

    share: float
    side: int
    side_fraction: float
    area_fraction: float


@dataclass(frozen=True)
class Extent:
    """Extent of a receptive field.

    Args:
        centre: Row and column of the common centre of circles and squares.
        circles: One for each radius.
        squares: One for each share.
    """

    centre: tuple[int, int]
    circles: tuple[Circle, ...]
    squares: tuple[Square, ...]


def measure_extent(contributions: Tensor, radii: Sequence[int], shares: Sequence[float] = SQUARE_SHARES) -> Extent:
    """Measure a map.

    Args:
        contributions: (H, W), not negative, not all zero.
        radii: Radii of circles in pixels.
        shares: Shares of squares, above 0, up to 1.
    """
    height, width = contributions.shape
    shorter, longer = min(height, width), max(height, width)
    total = contributions.sum()
    centre = _median(contributions.sum(1)), _median(contributions.sum(0))
    rows = (torch.arange(height) - centre[0]).abs()[:, None]
    columns = (torch.arange(width) - centre[1]).abs()[None]
    circles = tuple(
        Circle(radius, radius / shorter, (contributions[rows**2 + columns**2 <= radius**2].sum() / total).item())
        for radius in radii
    )
    ring = torch.maximum(rows, columns).flatten()  # (H * W): half side of the smallest square around each pixel
    inside = torch.bincount(ring, contributions.flatten()).cumsum(0)
    pixels = torch.bincount(ring).cumsum(0)
    squares = []
    for share in shares:
        half = int(torch.searchsorted(inside, share * inside[-1]))
        side = min(2 * half + 1, longer)
        squares.append(Square(share, side, side / shorter, pixels[half].item() / (height * width)))
    return Extent(centre, circles, tuple(squares))


def _median(marginal: Tensor) -> int:
    """Return the first index up to which at least half of the sum lies."""
    return int(torch.searchsorted(marginal.cumsum(0), marginal.sum() / 2))
