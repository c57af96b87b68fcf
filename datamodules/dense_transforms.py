"""Scales and augments images of dense tasks together with their masks and boxes."""

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
"""Class index of pixels that are ignored, padding included."""

Resize = Literal["fit", "stretch", "shorter"]


@dataclass(frozen=True)
class DenseAugmentation:
    """Augmentation of a training image together with its masks and boxes.

    Args:
        scale: Range of the image's size relative to its size in evaluation.
        crop: Crop a random square of data.image_size, padded where the image is smaller; false keeps the whole image.
        ssd_crop: First, SSD's expansion to up to 4 times the size (in half of the cases) and SSD's crop with a minimum
            IoU with the boxes.
        horizontal_flip: Probability of a horizontal flip.
        photometric: Probability of a change of brightness, contrast, saturation and hue.

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
    """Return the joint transform of an image and its target; images become float32 in [0, 1].

    Args:
        size: Size to scale to, and the side of crops, in pixels.
        resize: Which side is scaled to it: see DenseDataModule.
        longest_side: Largest side in pixels with resize = shorter.
        mean: Mean colour in [0, 1], used to pad images.
        outside: Value used to pad masks.
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
    """Stack maps (..., H, W), padded at the bottom and on the right to the largest height and width."""
    height, width = (max(one.shape[side] for one in maps) for side in (-2, -1))
    return torch.stack([padded(one, height, width, value) for one in maps])


def padded(values: Tensor, height: int, width: int, value: float) -> Tensor:
    """Return an image or a mask (..., H, W) padded at the bottom and on the right to a height and width."""
    return F.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]), value=value)
