"""How images are augmented in training: as timm does. See :mod:`mobilemamba.preprocessing` for evaluation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from datamodules.cropping import CropResizeFlip
from datamodules.erasing import RandomErasing
from datamodules.posterize import repair_posterize
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata

POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
"""What timm's policy strings begin with."""


@dataclass(frozen=True)
class AugmentationConfig:
    """Training augmentation of single images; the defaults are the paper's recipe.

    Args:
        auto_augment: timm's policy string, such as "rand-m9-mstd0.5-inc1" (RandAugment); null for none.
        color_jitter: Strength of colour jitter; timm applies it only where auto_augment is null.
        crop_scale: Least and greatest share of the image that the random crop covers.
        crop_ratio: Least and greatest aspect ratio of the random crop.
        horizontal_flip: Probability of a flip; 0 for images whose sides mean something, such as digits.
        rotation: Greatest angle in degrees by which the image is turned, either way, before the crop.
        translation: Greatest share of its side by which the image is shifted, any way, before the crop.
        interpolation: Resampling filter; "random" draws bilinear or bicubic for each image.
        erasing_probability: Probability of random erasing.
        erasing_mode: What erased areas are filled with: noise per pixel, one random colour, or zeros.

    Raises:
        UserError: When a probability or range is impossible; names field, value and remedy.
    """

    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    rotation: float = 0.0
    translation: float = 0.0
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    erasing_probability: float = 0.25
    erasing_mode: Literal["pixel", "rand", "const"] = "pixel"

    def __post_init__(self) -> None:
        """Check every field."""
        if self.auto_augment is not None and self.auto_augment.split("-")[0] not in POLICIES:
            raise UserError(
                f'augmentation.auto_augment = "{self.auto_augment}" must be a policy that begins with one '
                f"of {', '.join(POLICIES)}, or null (in a YAML file) for none."
            )
        for name, most in {"horizontal_flip": 1, "erasing_probability": 1, "translation": 1, "rotation": 180}.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UserError(f"augmentation.{name} = {value} must be a value in [0, {most}].")
        if self.color_jitter < 0:
            raise UserError(f"augmentation.color_jitter = {self.color_jitter} must be 0 (off) or more.")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"augmentation.{name} = {(low, high)} must be (least, greatest) above 0.")

    @property
    def erasing(self) -> RandomErasing:
        """What is erased."""
        return RandomErasing(self.erasing_probability, self.erasing_mode)


class TrainingTransform:
    """Random augmentation of one image, which leaves bytes; normalising and erasing are for a whole batch.

    Args:
        config: What to do.
        metadata: Size of the images, and their mean colour, with which what comes from outside is filled.
    """

    def __init__(self, config: AugmentationConfig, metadata: ModelMetadata) -> None:
        repair_posterize()
        _use_kernel()
        crop, augment, _ = create_transform(
            metadata.image_size,
            is_training=True,
            scale=config.crop_scale,
            ratio=config.crop_ratio,
            color_jitter=config.color_jitter or None,
            auto_augment=config.auto_augment,
            interpolation=config.interpolation,
            mean=metadata.mean,
            std=metadata.std,
            separate=True,
        )
        self.move: transforms.RandomAffine | None = None
        if config.rotation or config.translation:
            shift = (config.translation, config.translation)
            self.move = transforms.RandomAffine(config.rotation, shift, interpolation=InterpolationMode.BILINEAR)
        self.crop = CropResizeFlip(crop.transforms[0], config.horizontal_flip)
        self.augment = augment
        self.takes_pixels = all([_let_take_pixels(step) for step in augment.transforms])
        self.erasing = config.erasing

    def __call__(self, pixels: np.ndarray) -> Tensor:
        """Return uint8 (S, S, 3) from uint8 (H, W, 3)."""
        if self.move is not None:
            pixels = np.array(self.move(Image.fromarray(pixels)))
        image = self.crop(pixels)
        pixels = image.numpy()
        augmented = self.augment(pixels if self.takes_pixels else Image.fromarray(pixels))
        return torch.from_numpy(augmented if isinstance(augmented, np.ndarray) else np.array(augmented))


@dataclass(frozen=True)
class _OnPillow:
    """An operation that takes pixels too, and makes an image of Pillow of them.

    Args:
        function: Takes an image of Pillow.
    """

    function: Callable[..., Any]

    def __call__(self, image: Image.Image | np.ndarray, *arguments: Any, **options: Any) -> Any:
        return self.function(Image.fromarray(image) if isinstance(image, np.ndarray) else image, *arguments, **options)


def _let_take_pixels(step: Any) -> bool:
    """Let the operations of a step take pixels, where it hands on what they give; return whether it does."""
    if not isinstance(step, RandAugment):
        return False
    for operation in step.ops:
        if not getattr(operation.aug_fn, "takes_pixels", False):
            operation.aug_fn = _OnPillow(operation.aug_fn)
    return True


@functools.cache  # to warn once
def _use_kernel() -> None:
    if find_spec("numba") is None:
        return
    try:
        from datamodules.affine import use_kernel

        use_kernel()
    except Exception as error:  # Numba refuses newer versions of NumPy; no folder can be written; and so on
        warnings.warn(f"Pillow shears and shifts images in place of a Numba kernel: {error!r}", stacklevel=1)
