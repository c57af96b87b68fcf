"""timm's Posterize with zero bits, which newer versions of Pillow (13.0 for one) no longer take.

RandAugment at magnitude 9 with deviation 0.5, the recipe, reaches magnitude 10 and thereby zero bits now and then.
Older versions of Pillow gave a black image for that; newer ones raise, which would end a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image, ImageOps
from timm.data import auto_augment


def posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Keep the highest bits of each colour; none of them leaves black, as in the published trainings.

    Args:
        image: The image.
        bits_to_keep: Bits per colour, 0 or more.
        options: What timm hands to all its operations (fill colour, resampling); of no meaning here.
    """
    if bits_to_keep >= 8:
        return image
    if bits_to_keep <= 0:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits_to_keep)


def repair_posterize(transform: Any) -> None:
    """Let every Posterize in a composed transform be the one above.

    Args:
        transform: What timm's create_transform returned; changed in place.
    """
    for operation in _operations(transform.transforms):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = posterize


def _operations(part: Any) -> Iterator[Any]:
    """Find timm's single operations in lists, policies (AutoAugment) and sets (RandAugment, AugMix) of them."""
    match part:
        case auto_augment.AugmentOp():
            yield part
        case list() | tuple():
            for inner in part:
                yield from _operations(inner)
        case auto_augment.AutoAugment():
            yield from _operations(part.policy)
        case auto_augment.RandAugment() | auto_augment.AugMixAugment():
            yield from _operations(list(part.ops))
