"""JPEG files of noise with ImageNet's image sizes, for machines without photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((500, 375), (500, 375), (500, 375), (375, 500), (500, 333), (640, 480))
"""Width and height in pixels; the median is ImageNet's."""

CLASSES = 4


def write_photographs(root: Path, count: int) -> Path:
    """Write ``count`` training images and a few validation images; return their folder."""
    generator = np.random.default_rng(0)
    for split, images in (("train", count), ("val", CLASSES)):
        for number in range(images):
            size = SIZES[number % len(SIZES)]
            layers = [_noise(generator, cells, size) for cells in (4, 24, 160)]
            pixels = np.clip(sum(np.multiply(layers, [[[[0.6]]], [[[0.3]]], [[[0.15]]]])), 0, 255).astype(np.uint8)
            file = root / split / f"class{number % CLASSES}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, quality=92)
    return root


def _noise(generator: np.random.Generator, cells: int, size: tuple[int, int]) -> np.ndarray:
    """Return noise (height, width, 3), upsampled from cells x cells pixels."""
    cell = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cell).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
