"""Shear and translation of images by Numba, where it is installed: Pillow's pixels to the last bit, in less time.

These move pixels along one axis, so four values or two make a new one, where Pillow computes sixteen or four whatever
the matrix is. Rotation stays Pillow's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import njit
from PIL import Image
from timm.data import auto_augment

MATRICES: dict[str, Callable[[int, int, float], tuple[float, ...]]] = {
    "ShearX": lambda width, height, factor: (1, factor, 0, 0, 1, 0),
    "ShearY": lambda width, height, factor: (1, 0, 0, factor, 1, 0),
    "TranslateX": lambda width, height, pixels: (1, 0, pixels, 0, 1, 0),
    "TranslateY": lambda width, height, pixels: (1, 0, 0, 0, 1, pixels),
    "TranslateXRel": lambda width, height, share: (1, 0, share * width, 0, 1, 0),
    "TranslateYRel": lambda width, height, share: (1, 0, 0, 0, 1, share * height),
}
"""Pillow's matrix of an image's width and height and an operation's strength, by timm's name of the operation."""

FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


TIMMS = {name: auto_augment.NAME_TO_OP[name] for name in MATRICES}
"""timm's own operations."""


@dataclass(frozen=True)  # a class, so that a loader process that is spawned takes it
class Operation:
    """One of timm's operations with the work done by the kernel, for the images and filters that it knows.

    Args:
        name: timm's name of it.
    """

    name: str
    takes_pixels: ClassVar[bool] = True
    """Whether it takes pixels as well as images of Pillow."""

    def __call__(self, image: Image.Image | np.ndarray, strength: float, **options: Any) -> Image.Image | np.ndarray:
        """Return the moved image in the form in which it came, of the draws of timm.

        Args:
            image: An image of Pillow, or pixels, uint8 (H, W, 3).
            strength: As timm says it.
            options: Filter or filters to draw from, and the colour of what comes from outside.
        """
        chosen = options["resample"]
        if isinstance(chosen, (list, tuple)):
            chosen = random.choice(chosen)
        if chosen not in FILTERS or (isinstance(image, Image.Image) and image.mode != "RGB"):
            whole = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            return TIMMS[self.name](whole, strength, **{**options, "resample": chosen})
        pixels = np.asarray(image)
        numbers = map(float, MATRICES[self.name](pixels.shape[1], pixels.shape[0], strength))
        moved = move(pixels, options["fillcolor"], *numbers, chosen == Image.Resampling.BICUBIC)
        return moved if image is pixels else Image.fromarray(moved)


def use_kernel() -> None:
    """Let all transforms that timm makes from now on use the kernel, compiled before loader processes begin."""
    auto_augment.NAME_TO_OP.update({name: Operation(name) for name in MATRICES})
    for image in (Image.new("RGB", (1, 1)), np.zeros((1, 1, 3), np.uint8)):  # read-only pixels, and others
        Operation("ShearX")(image, 0, resample=Image.Resampling.BILINEAR, fillcolor=(0, 0, 0))


@njit(inline="always")
def _cubic(v1: float, v2: float, v3: float, v4: float, d: float) -> float:
    return v2 + d * ((-v1 + v3) + d * ((2 * (v1 - v2) + v3 - v4) + d * (-v1 + v2 - v3 + v4)))


@njit(inline="always")
def _clip(index: int, length: int) -> int:
    return min(max(index, 0), length - 1)


# No fast mathematics: the rounding is that of Pillow's C code, operation by operation.
@njit(nogil=True, error_model="numpy", cache=True)
def move(
    image: np.ndarray,
    fill: tuple[int, int, int],
    a: float,
    b: float,
    c: float,
    d: float,
    e: float,
    f: float,
    is_bicubic: bool,
) -> np.ndarray:
    """Return what an affine map along one axis finds in an image, uint8 (H, W, 3); Pillow's ``Image.transform``.

    Args:
        image: uint8 (H, W, 3), contiguous.
        fill: Colour of what comes from outside.
        a: Of the map from (x, y) to (a x + b y + c, d x + e y + f), which leaves x or y as it is; likewise the others.
        b: See a.
        c: See a.
        d: See a.
        e: See a.
        f: See a.
        is_bicubic: Bicubic, not bilinear.
    """
    height, width = image.shape[:2]
    row = 3 * width
    out = np.empty_like(image)
    source, target = image.reshape(-1), out.reshape(-1)
    # Values of one row are gathered first: the arithmetic then runs on vectors.
    v1, v2, v3, v4, share = np.zeros(row), np.zeros(row), np.zeros(row), np.zeros(row), np.zeros(row)
    for y in range(height):
        first, last = width, -1
        for x in range(width):
            x_in, y_in = a * (x + 0.5) + b * (y + 0.5) + c, d * (x + 0.5) + e * (y + 0.5) + f
            if x_in < 0.0 or x_in >= width or y_in < 0.0 or y_in >= height:
                out[y, x, 0], out[y, x, 1], out[y, x, 2] = fill
                continue
            first, last = min(first, x), x
            x_in, y_in = x_in - 0.5, y_in - 0.5
            left, top = math.floor(x_in), math.floor(y_in)
            dx, dy = x_in - left, y_in - top
            if dy == 0.0:
                t, line = dx, top * row
                o1, o2 = line + 3 * _clip(left - 1, width), line + 3 * left if left >= 0 else line
                o3, o4 = line + 3 * _clip(left + 1, width), line + 3 * _clip(left + 2, width)
            else:
                t, column = dy, 3 * left
                o1, o2 = _clip(top - 1, height) * row + column, _clip(top, height) * row + column
                o3, o4 = _clip(top + 1, height) * row + column, _clip(top + 2, height) * row + column
            for channel in range(3):
                i = np.uint64(3 * x + channel)
                share[i] = t
                v2[i], v3[i] = source[np.uint64(o2 + channel)], source[np.uint64(o3 + channel)]
                if is_bicubic:
                    v1[i], v4[i] = source[np.uint64(o1 + channel)], source[np.uint64(o4 + channel)]
        begin, end = 3 * first, 3 * last + 3
        line_out = target[y * row : (y + 1) * row]
        if is_bicubic:
            for j in range(begin, end):
                line_out[j] = np.uint8(min(max(_cubic(v1[j], v2[j], v3[j], v4[j], share[j]), 0.0), 255.0))
        else:
            for j in range(begin, end):
                line_out[j] = np.uint8(v2[j] + (v3[j] - v2[j]) * share[j])
    return out
