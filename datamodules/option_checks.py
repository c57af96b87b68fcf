"""Checks the options of image classification data."""

from __future__ import annotations

from typing import Protocol

from datamodules.mixing import MixingConfig
from mobilemamba.errors import UserError, require

LEAST = {
    "num_classes": 2,
    "image_size": 1,
    "batch_size": 1,
    "repeats": 1,
    "num_workers": 0,
    "loader_timeout": 0,
    "max_corrupt": 0,
    "seed": 0,
}


class Options(Protocol):
    """Options that depend on each other, or are not single numbers."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    balance: float
    crop_pct: float
    batch_size: int
    mixing: MixingConfig


def check_options(data: Options) -> None:
    """Check the options that all classification data have.

    Raises:
        UserError: When one is out of range; names field, value and remedy.
    """
    for name, least in LEAST.items():
        require(getattr(data, name) >= least, f"data.{name}", getattr(data, name), f"{least} or more")
    if len(data.mean) != 3 or len(data.std) != 3 or min(data.std) <= 0:
        raise UserError(
            f"data.mean = {data.mean} and data.std = {data.std} must be three numbers each, one per colour; data.std "
            "must be above 0."
        )
    require(0 <= data.balance <= 1, "data.balance", data.balance, "from 0 (off) to 1 (all classes equally often)")
    require(0 < data.crop_pct <= 1, "data.crop_pct", data.crop_pct, "a share above 0 and up to 1")
    if data.mixing.enabled and data.batch_size % 2:
        raise UserError(
            f"data.batch_size = {data.batch_size} must be even, since mixup and CutMix mix pairs; or set "
            "data.mixing.mixup and data.mixing.cutmix to 0."
        )
