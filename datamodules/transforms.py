"""How images become tensors: timm's augmentation in training, resize and centre crop in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from timm.data import create_transform
from torch import Tensor

from mobilemamba.metadata import ModelMetadata

Transform = Callable[[Any], Tensor]


@dataclass(frozen=True)
class AugmentationConfig:
    """Training augmentation of single images; the defaults are the paper's recipe.

    Args:
        auto_augment: timm's policy string, such as "rand-m9-mstd0.5-inc1" (RandAugment); null for none.
        color_jitter: Strength of colour jitter; timm applies it only where auto_augment is null.
        crop_scale: Least and greatest share of the image that the random crop covers.
        crop_ratio: Least and greatest aspect ratio of the random crop.
        horizontal_flip: Probability of a flip; 0 for images whose sides mean something, such as digits.
        interpolation: Resampling filter; "random" draws bilinear or bicubic for each image.
        erasing_probability: Probability of random erasing.
        erasing_mode: What erased areas are filled with: noise per pixel, one random colour, or zeros.

    Raises:
        ValueError: When a probability or range is impossible; names field, value and remedy.
    """

    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    interpolation: Literal["random", "bilinear", "bicubic"] = "random"
    erasing_probability: float = 0.25
    erasing_mode: Literal["pixel", "rand", "const"] = "pixel"

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("horizontal_flip", "erasing_probability"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"augmentation.{name} = {value} is not possible: use a probability in [0, 1].")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"augmentation.{name} = {(low, high)} is not possible: give (least, greatest) above 0."
                )


def training_transform(config: AugmentationConfig, metadata: ModelMetadata) -> Transform:
    """Return a random transform from PIL images to normalised tensors (3, H, W)."""
    transform: Transform = create_transform(
        metadata.image_size,
        is_training=True,
        scale=config.crop_scale,
        ratio=config.crop_ratio,
        hflip=config.horizontal_flip,
        color_jitter=config.color_jitter,
        auto_augment=config.auto_augment,
        interpolation=config.interpolation,
        mean=metadata.mean,
        std=metadata.std,
        re_prob=config.erasing_probability,
        re_mode=config.erasing_mode,
    )
    return transform


def evaluation_transform(metadata: ModelMetadata) -> Transform:
    """Return resize of the shorter side to size / crop_pct and centre crop, from PIL images to tensors (3, H, W)."""
    transform: Transform = create_transform(
        metadata.image_size,
        is_training=False,
        interpolation=metadata.interpolation,
        mean=metadata.mean,
        std=metadata.std,
        crop_pct=metadata.crop_pct,
    )
    return transform
