"""Trainers that write a TensorBoard log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def logged(make_trainer: MakeTrainer, tmp_path: Path) -> MakeTrainer:
    """Build trainers with a TensorBoard log."""

    def make(version: int = 0, **options: Any) -> Trainer:
        logger = TensorBoardLogger(tmp_path, name="run", version=version, default_hp_metric=False)
        return make_trainer(logger=logger, **options)

    return make
