"""How images become tensors in evaluation, prediction and the calibration of int8 files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from timm.data import create_transform
from torch import Tensor

from mobilemamba.metadata import ModelMetadata

Transform = Callable[[Any], Tensor]
"""Maps a PIL image to a tensor (3, H, W)."""


def evaluation_transform(metadata: ModelMetadata) -> Transform:
    """Return a transform that resizes the shorter side to size / crop_pct, crops the centre and normalises."""
    transform = create_transform(
        metadata.image_size,
        is_training=False,
        interpolation=metadata.interpolation,
        mean=metadata.mean,
        std=metadata.std,
        crop_pct=metadata.crop_pct,
    )
    return cast(Transform, transform)
