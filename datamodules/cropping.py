"""Random crop, resize and flip of pixels in memory: as timm does it by Pillow, in less time."""

from __future__ import annotations

import random

import numpy as np
import torch
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn import functional as F


class CropResizeFlip:
    """Random crop resized to one size, and turned over with some probability.

    Boxes, filters and flips are drawn as by timm's transforms. The resampling is torch's for bytes with antialiasing,
    which follows Pillow's algorithm with vector instructions: its pixels differ from Pillow's by rounding.

    Args:
        crop: Draws the boxes and filters.
        flip: Probability of a horizontal flip.
    """

    def __init__(self, crop: RandomResizedCropAndInterpolation, flip: float) -> None:
        self.crop, self.flip = crop, flip
        filters = crop.interpolation if isinstance(crop.interpolation, (tuple, list)) else [crop.interpolation]
        self.filters = [mode.value for mode in filters]

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Return uint8 (H, W, 3) of the crop's size from uint8 (H, W, 3) of any."""
        image = torch.from_numpy(pixels)
        top, left, height, width = self.crop.get_params(image.permute(2, 0, 1), self.crop.scale, self.crop.ratio)
        mode = random.choice(self.filters) if len(self.filters) > 1 else self.filters[0]
        image = image[top : top + height, left : left + width]
        if (height, width) != tuple(self.crop.size):
            # Contiguous pixels of three colours each are what the vector instructions are for.
            planes = image.contiguous().permute(2, 0, 1)[None]
            image = F.interpolate(planes, self.crop.size, mode=mode, antialias=True)[0].permute(1, 2, 0)
        if self.flip and torch.rand(1).item() < self.flip:
            image = image.flip(1)
        return image.contiguous()
