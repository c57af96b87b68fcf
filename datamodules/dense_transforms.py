"""How images of dense tasks are scaled and augmented, together with their masks and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from mobilemamba.errors import require

IGNORED = 255
"""Index of pixels that belong to no class; padding is of this kind too."""

Resize = Literal["fit", "stretch", "shorter"]


@dataclass(frozen=True)
class DenseAugmentation:
    """How a training image and what belongs to it are changed together.

    Args:
        scale: Range of the size relative to that in evaluation.
        crop: Cut a square of data.image_size out at random, padded where the image is smaller; false keeps all of it.
        ssd_crop: First, SSD's expansion to up to 4 times the size, in half of the cases, and crop of a minimum IoU with
            the boxes.
        horizontal_flip: Chance of a mirror image.
        photometric: Chance of other brightness, contrast, saturation and hue.

    Raises:
        UserError: When a value is out of range.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    crop: bool = True
    ssd_crop: bool = False
    horizontal_flip: float = 0.5
    photometric: float = 0.5

    def __post_init__(self) -> None:
        """Check every field."""
        require(0 < self.scale[0] <= self.scale[1], "augmentation.scale", self.scale, "two rising positive numbers")
        for name in ("horizontal_flip", "photometric"):
            require(0 <= getattr(self, name) <= 1, f"augmentation.{name}", getattr(self, name), "from 0 to 1")


def joint_transform(
    size: int,
    resize: Resize,
    longest_side: int,
    mean: tuple[float, ...],
    outside: int,
    changes: DenseAugmentation | None,
) -> v2.Transform:
    """Return what is done to an image and its target together; images become float32 in [0, 1].

    Args:
        size: What a side is scaled to, and the side of crops, in pixels.
        resize: Which side: see DenseDataModule.
        longest_side: Most pixels of a side with resize = shorter.
        mean: The mean colour in [0, 1], with which images are padded.
        outside: What masks are padded with.
        changes: Augmentation; None in evaluation.
    """
    mean_colour = [round(255 * level) for level in mean]
    padding: dict[Any, Any] = {tv_tensors.Image: mean_colour, tv_tensors.Mask: outside}
    steps: list[v2.Transform] = []
    if changes is not None:
        steps.append(v2.RandomApply([v2.RandomPhotometricDistort()], p=changes.photometric))
        if changes.ssd_crop:
            steps += [v2.RandomZoomOut(fill=padding), v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()]
    steps.append(_resized(size, resize, longest_side, (1.0, 1.0) if changes is None else changes.scale))
    if changes is not None:
        if changes.crop:
            steps.append(v2.RandomCrop(size, pad_if_needed=True, fill=padding))
        steps.append(v2.RandomHorizontalFlip(changes.horizontal_flip))
    return v2.Compose([*steps, v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)])


def _resized(size: int, resize: Resize, longest_side: int, scale: tuple[float, float]) -> v2.Transform:
    least, most = scale
    match resize:
        case "stretch":
            return v2.Resize((size, size), antialias=True)
        case "shorter":
            sizes = list(range(round(size * least), round(size * most) + 1))
            return v2.RandomShortestSize(sizes, round(longest_side * most), antialias=True)
        case _ if least == most == 1:
            return v2.Resize(None, max_size=size, antialias=True)
        case _:
            return v2.ScaleJitter((size, size), scale, antialias=True)


def stacked(maps: Sequence[Tensor], value: float) -> Tensor:
    """Return maps (..., H, W) as a batch as high and wide as the largest, padded at the bottom and on the right."""
    height, width = (max(one.shape[side] for one in maps) for side in (-2, -1))
    return torch.stack([padded(one, height, width, value) for one in maps])


def padded(values: Tensor, height: int, width: int, value: float) -> Tensor:
    """Return an image or a mask (..., H, W) with so many rows and columns, filled up at the bottom and on the right."""
    return F.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]), value=value)
