"""The callbacks in two processes on the CPU: they act alike, and leave what one process would leave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.callbacks import EMA, BestCheckpoint, LastCheckpoint, NonFiniteGuard
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData
from tests.spawned import SpawnedProcesses

MakeTrainer = Callable[..., Trainer]


class SplitData(TinyData):
    """Each process has images of its own; the second process's second training batch holds an infinite pixel."""

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        images, targets = self.dataset(self.trainer.global_rank).tensors
        if self.trainer.global_rank == 1:
            images[8, 0, 0, 0] = torch.inf
        return DataLoader(TensorDataset(images, targets), batch_size=self.batch_size)


class Alike(Callback):
    """Checks in every process that one step was skipped, and that all hold the same parameters and averages."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        assert pl_module.ema_student is not None
        guard = next(c for c in trainer.callbacks if isinstance(c, NonFiniteGuard))  # type: ignore[attr-defined]
        assert guard.skipped == 1
        for network in (pl_module.student, pl_module.ema_student):
            for name, value in network.named_parameters():
                gathered = pl_module.all_gather(value.detach())
                assert isinstance(gathered, Tensor)
                assert gathered.isfinite().all(), name
                assert torch.equal(gathered[0], gathered[1]), name


@pytest.fixture
def pair(make_trainer: MakeTrainer) -> MakeTrainer:
    def make(callbacks: list[Callback], **options: Any) -> Trainer:
        strategy = SpawnedProcesses()
        return make_trainer(devices=2, strategy=strategy, use_distributed_sampler=False, callbacks=callbacks, **options)

    return make


@pytest.mark.parametrize("float16", [False, True])
def test_a_batch_that_is_bad_on_one_process_is_skipped_on_both(
    pair: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, float16: bool
) -> None:
    # With a loss scale the process whose own loss is finite could take the step for an overflow.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if float16 else []
    folder = str(tmp_path / "checkpoints")
    callbacks = [
        EMA(decay=0.5),
        NonFiniteGuard(),
        BestCheckpoint(dirpath=folder),
        LastCheckpoint(dirpath=folder),
        Alike(),
    ]
    trainer = pair(callbacks, enable_checkpointing=True, plugins=plugins)
    trainer.fit(ImageClassification(tiny), datamodule=SplitData())
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 3
    assert content["callbacks"]["NonFiniteGuard"] == {"skipped": 1, "skipped_in_a_row": 0}
    for state in ("state_dict", "current_model_state"):
        assert all(value.isfinite().all() for value in content[state].values() if value.is_floating_point())
