"""Validation images, read without a loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from lightning_modules.inspection import validation_images
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


def test_corrupt_validation_images_are_left_out(make_trainer: MakeTrainer) -> None:
    class Holes(TinyData):
        def val_dataloader(self) -> DataLoader[Any]:
            samples = list(self.dataset(1))
            return DataLoader([None, *samples[1:]])  # type: ignore[list-item]

    trainer = make_trainer()
    trainer.datamodule = Holes()  # type: ignore[attr-defined]
    images = validation_images(trainer, 3)
    assert images is not None
    assert torch.equal(images, TinyData().dataset(1).tensors[0][[8, 16]])
