"""Augmentation in training, the same as timm's. See :mod:`mobilemamba.preprocessing` for evaluation."""

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
from mobilemamba.errors import UserError, require
from mobilemamba.metadata import ModelMetadata

POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
"""First parts of timm's policy strings."""


@dataclass(frozen=True)
class AugmentationConfig:
    """Training augmentation of single images; the defaults are the paper's recipe.

    Args:
        auto_augment: timm's policy string, such as "rand-m9-mstd0.5-inc1" (RandAugment); null for none.
        color_jitter: Strength of colour jitter; timm applies it only where auto_augment is null.
        crop_scale: Smallest and largest share of the image that the random crop covers.
        crop_ratio: Smallest and largest aspect ratio of the random crop.
        horizontal_flip: Probability of a flip; 0 where left and right matter, as for digits.
        rotation: Largest angle in degrees of a random rotation before the crop.
        translation: Largest random shift before the crop, relative to the image's side.
        interpolation: Resampling filter; "random" draws bilinear or bicubic for each image.
        erasing_probability: Probability of random erasing.
        erasing_mode: Filling of erased areas: noise per pixel, one random colour, or zeros.

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
            require(0 <= value <= most, f"augmentation.{name}", value, f"a value in [0, {most}]")
        require(self.color_jitter >= 0, "augmentation.color_jitter", self.color_jitter, "0 (off) or more")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"augmentation.{name}", (low, high), "two rising numbers above 0")

    @property
    def erasing(self) -> RandomErasing:
        """Random erasing with these options."""
        return RandomErasing(self.erasing_probability, self.erasing_mode)


class TrainingTransform:
    """Random augmentation of one image in bytes; normalising and erasing come later, for a whole batch.

    Args:
        config: How to augment.
        metadata: Size of the images, and their mean colour, which fills pixels outside the image.
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
    """Lets a function of Pillow images take NumPy arrays too."""

    function: Callable[..., Any]

    def __call__(self, image: Image.Image | np.ndarray, *arguments: Any, **options: Any) -> Any:
        return self.function(Image.fromarray(image) if isinstance(image, np.ndarray) else image, *arguments, **options)


def _let_take_pixels(step: Any) -> bool:
    """Let the operations of RandAugment take NumPy arrays; return whether the step is RandAugment."""
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
        warnings.warn(f"Pillow shears and shifts images instead of a Numba kernel: {error!r}", stacklevel=1)
