"""timm's Posterize, which Pillow 13.0 refuses for zero bits: for timm up to 1.0.31 at least.

RandAugment at magnitude 9 with deviation 0.5, the recipe, reaches magnitude 10 and thereby zero bits now and then.
Pillow before 13.0 gave a black image for that, as in the published trainings. This goes when timm's own takes zero.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from timm.data import auto_augment

TIMM_POSTERIZE = auto_augment.posterize


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Keep the highest bits of each colour; none of them leaves black.

    Args:
        image: The image.
        bits_to_keep: Bits per colour, 0 or more.
        options: Fill colour and resampling, which timm hands to all its operations.
    """
    if bits_to_keep <= 0:
        return Image.new(image.mode, image.size)
    return TIMM_POSTERIZE(image, bits_to_keep, **options)


def repair_posterize() -> None:
    """Let all transforms that timm makes from now on take the function above."""
    for name, function in auto_augment.NAME_TO_OP.items():
        if function is TIMM_POSTERIZE:
            auto_augment.NAME_TO_OP[name] = posterize
