"""Speed and data wait are logged, and a slow loader is pointed out once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_modules.callbacks import Throughput, throughput
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


class SlowImages(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.05)
        return torch.zeros(3, 64, 64), index % 4


class SlowData(TinyData):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(SlowImages(), batch_size=2)


def test_a_slow_loader_is_measured_and_pointed_out_once(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "MEASURED_STEPS", 4)
    trainer = make_trainer(callbacks=[Throughput()], limit_val_batches=0, max_epochs=2)
    with pytest.warns(UserWarning, match="Training waits for data") as caught:
        trainer.fit(ImageClassification(tiny), datamodule=SlowData())
    assert sum("waits for data" in str(warning.message) for warning in caught) == 1
    assert 0.1 < trainer.callback_metrics["train/data_wait"] < 1
    assert 1 < trainer.callback_metrics["train/images_per_second"] < 20  # two images take 0.1 s to load
