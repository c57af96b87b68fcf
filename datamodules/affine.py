"""Shear and translation of images by Numba, where it is installed: the same pixels as Pillow's, in less time.

They move pixels along one axis, so four source pixels (bicubic) or two (bilinear) give a new one, where Pillow always
uses sixteen or four. Rotation is left to Pillow.
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

TIMM_OPERATIONS = {name: auto_augment.NAME_TO_OP[name] for name in MATRICES}


@dataclass(frozen=True)  # a class, so that it can be pickled for spawned loader processes
class Operation:
    """One of timm's operations, computed by the kernel where it supports the image and the filter.

    Args:
        name: timm's name of the operation.
    """

    name: str
    takes_pixels: ClassVar[bool] = True
    """Whether it accepts NumPy arrays as well as Pillow images."""

    def __call__(self, image: Image.Image | np.ndarray, strength: float, **options: Any) -> Image.Image | np.ndarray:
        """Return the moved image, as the type that was given; random draws are the same as timm's.

        Args:
            image: A Pillow image, or pixels, uint8 (H, W, 3).
            strength: timm's strength of the operation.
            options: ``resample``, a filter or several to draw from, and ``fillcolor`` for pixels outside the image.
        """
        chosen = options["resample"]
        if isinstance(chosen, (list, tuple)):
            chosen = random.choice(chosen)
        if chosen not in FILTERS or (isinstance(image, Image.Image) and image.mode != "RGB"):
            whole = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            return TIMM_OPERATIONS[self.name](whole, strength, **{**options, "resample": chosen})
        pixels = np.asarray(image)
        matrix = tuple(map(float, MATRICES[self.name](pixels.shape[1], pixels.shape[0], strength)))
        moved = move(pixels, options["fillcolor"], matrix, chosen == Image.Resampling.BICUBIC)
        return moved if image is pixels else Image.fromarray(moved)


def use_kernel() -> None:
    """Let all transforms that timm makes from now on use the kernel, and compile it before loader processes start."""
    auto_augment.NAME_TO_OP.update({name: Operation(name) for name in MATRICES})
    for image in (Image.new("RGB", (1, 1)), np.zeros((1, 1, 3), np.uint8)):  # read-only and writable pixels
        Operation("ShearX")(image, 0, resample=Image.Resampling.BILINEAR, fillcolor=(0, 0, 0))


@njit(inline="always")
def _cubic(v1: float, v2: float, v3: float, v4: float, d: float) -> float:
    return v2 + d * ((-v1 + v3) + d * ((2 * (v1 - v2) + v3 - v4) + d * (-v1 + v2 - v3 + v4)))


@njit(inline="always")
def _clip(index: int, length: int) -> int:
    return min(max(index, 0), length - 1)


# Without fastmath, since every operation must round as in Pillow's C code.
@njit(nogil=True, error_model="numpy", cache=True)
def move(image: np.ndarray, fill: tuple[int, int, int], matrix: tuple[float, ...], is_bicubic: bool) -> np.ndarray:
    """Return an image moved by an affine map along one axis, uint8 (H, W, 3); as Pillow's ``Image.transform``.

    Args:
        image: uint8 (H, W, 3), contiguous.
        fill: Colour of pixels outside the image.
        matrix: (a, b, c, d, e, f) of the map from (x, y) to (a x + b y + c, d x + e y + f), which keeps x or y.
        is_bicubic: Bicubic, not bilinear.
    """
    a, b, c, d, e, f = matrix
    height, width = image.shape[:2]
    row = 3 * width
    out = np.empty_like(image)
    source, target = image.reshape(-1), out.reshape(-1)
    # The values of one row are gathered first, so that the arithmetic is vectorised.
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
