"""Repairs timm's Posterize for zero bits, which Pillow 13.0 refuses (timm 1.0.31 still needs this).

The recipe's RandAugment (magnitude 9, deviation 0.5) sometimes reaches magnitude 10, which means zero bits. Older
versions of Pillow returned a black image, as in the published trainings.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from timm.data import auto_augment

TIMM_POSTERIZE = auto_augment.posterize


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Keep the highest bits of each colour; zero bits give black. timm passes ``options`` to all its operations."""
    if bits_to_keep <= 0:
        return Image.new(image.mode, image.size)
    return TIMM_POSTERIZE(image, bits_to_keep, **options)


def repair_posterize() -> None:
    """Let all transforms that timm makes from now on use the function above."""
    for name, function in auto_augment.NAME_TO_OP.items():
        if function is TIMM_POSTERIZE:
            auto_augment.NAME_TO_OP[name] = posterize
