"""Random crop, resize and flip of pixels: the same as timm's with Pillow, in less time."""

from __future__ import annotations

import random

import numpy as np
import torch
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn import functional as F


class CropResizeFlip:
    """Random crop resized to a fixed size, and flipped with some probability.

    Boxes, filters and flips are drawn as in timm's transforms. torch resamples bytes with Pillow's algorithm and vector
    instructions: its pixels differ from Pillow's only by rounding.

    Args:
        crop: Draws the boxes and filters.
        flip: Probability of a horizontal flip.
    """

    def __init__(self, crop: RandomResizedCropAndInterpolation, flip: float) -> None:
        self.crop, self.flip = crop, flip
        filters = crop.interpolation if isinstance(crop.interpolation, (tuple, list)) else [crop.interpolation]
        self.filters = [mode.value for mode in filters]

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Return uint8 (H, W, 3) of the crop's size from uint8 (H, W, 3) of any size."""
        image = torch.from_numpy(pixels)
        top, left, height, width = self.crop.get_params(image.permute(2, 0, 1), self.crop.scale, self.crop.ratio)
        mode = random.choice(self.filters) if len(self.filters) > 1 else self.filters[0]
        # torch's vector instructions need a batch in channels-last layout.
        images = image[top : top + height, left : left + width].contiguous()[None].permute(0, 3, 1, 2)
        if (height, width) != tuple(self.crop.size):
            images = F.interpolate(images, self.crop.size, mode=mode, antialias=True)
        if self.flip and torch.rand(1).item() < self.flip:
            images = images.flip(3)
        return images[0].permute(1, 2, 0).contiguous()
