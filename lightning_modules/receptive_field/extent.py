"""Numbers for a contribution map: what lies within given radii, and how large a square holds given shares.

Circles and squares are centred on the map's median: the pixel with half of all contributions on either side, along each
axis. A position of a feature map lies on the image's middle only for some combinations of padding, stride and image
size, and half a stride beside it would count as a wider field.

The squares are those of RepLKNet (Ding et al., CVPR 2022; github.com/DingXiaoH/RepLKNet-pytorch/tree/main/
erf), which takes log10(1 + x) of the contributions first. These are shares of the contributions themselves: the
logarithm depends on their scale, and so on the number of images and on the network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SQUARE_SHARES = (0.2, 0.3, 0.5, 0.99)
"""Those of RepLKNet's table."""


@dataclass(frozen=True)
class Circle:
    """What a circle holds, pixels whose centres lie on it included.

    Args:
        radius: Pixels.
        radius_fraction: Radius by the image's shorter side.
        share: Of all contributions, 0 to 1.
    """

    radius: int
    radius_fraction: float
    share: float


@dataclass(frozen=True)
class Square:
    """The smallest square that holds a share.

    Args:
        share: Of all contributions, at least; 0 to 1.
        side: Pixels: odd, or the image's longer side where the square would be larger.
        side_fraction: Side by the image's shorter side.
        area_fraction: Pixels inside, by the image's.
    """

    share: float
    side: int
    side_fraction: float
    area_fraction: float


@dataclass(frozen=True)
class Extent:
    """Extent of a receptive field.

    Args:
        centre: Row and column of the pixel that circles and squares are centred on.
        circles: One for every radius asked for.
        squares: One for every share asked for.
    """

    centre: tuple[int, int]
    circles: tuple[Circle, ...]
    squares: tuple[Square, ...]


def measure_extent(contributions: Tensor, radii: Sequence[int], shares: Sequence[float] = SQUARE_SHARES) -> Extent:
    """Measure a map.

    Args:
        contributions: (H, W), not negative, not all zero.
        radii: Of circles, in pixels.
        shares: Of squares, above 0, up to 1.
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
