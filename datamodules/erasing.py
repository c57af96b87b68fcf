"""Random erasing (Zhong et al., 2020): rectangles are drawn with each image, noise for a whole batch on the device."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

AREA = (0.02, 1 / 3)
"""Smallest and largest share of the image, as in timm."""

LOG_RATIO = (math.log(0.3), math.log(1 / 0.3))
ATTEMPTS = 10
NONE = (0, 0, 0, 0, 0)
"""The rectangle of an image without erasing."""


@dataclass(frozen=True)
class RandomErasing:
    """Erase a rectangle of some images.

    Args:
        probability: Probability of erasing in an image.
        mode: Filling in normalised images: noise per pixel, one random colour, or zeros.
    """

    probability: float
    mode: Literal["pixel", "rand", "const"]

    def draw(self, size: tuple[int, int], seed: int) -> tuple[int, int, int, int, int]:
        """Return top, left, height and width of a rectangle, and the seed of its noise; zeros for none.

        It makes the same draws from Python's generator as timm.

        Args:
            size: Height and width of the image.
            seed: Seed of the noise.
        """
        if not self.probability or random.random() > self.probability:
            return NONE
        for _ in range(ATTEMPTS):
            area = random.uniform(*AREA) * size[0] * size[1]
            ratio = math.exp(random.uniform(*LOG_RATIO))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height < size[0] and width < size[1]:
                return random.randint(0, size[0] - height), random.randint(0, size[1] - width), height, width, seed
        return NONE

    def erase(self, images: Tensor, rectangles: np.ndarray) -> None:
        """Erase in normalised images, in place; the noise depends only on its seed and on the type of device.

        Args:
            images: (B, C, H, W).
            rectangles: Results of :meth:`draw`, (B, 5).
        """
        for index in np.flatnonzero(rectangles[:, 2]).tolist():
            top, left, height, width, seed = rectangles[index].tolist()
            place = images[index, :, top : top + height, left : left + width]
            if self.mode == "const":
                place.zero_()
                continue
            shape = place.shape if self.mode == "pixel" else (len(place), 1, 1)
            generator = torch.Generator(images.device).manual_seed(seed)
            place.copy_(torch.randn(shape, dtype=images.dtype, device=images.device, generator=generator))
