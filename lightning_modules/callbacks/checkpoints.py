"""Which checkpoints a run keeps: the best by validation accuracy, and the last."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.checkpoint_files import previous_checkpoint
from lightning_modules.inspection import task_of
from mobilemamba.errors import require
from mobilemamba.files import atomic_write


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt``, the checkpoint of the highest validation accuracy.

    Hooks: ``setup`` chooses the metric; the rest is Lightning's.

    Args:
        monitor: Metric to compare, higher is better. Null: the task's, val/top1_ema, or val/top1_raw without EMA.
        dirpath: Folder. Null: "checkpoints" in the run's folder.
        every_n_epochs: Number of epochs between two comparisons.
    """

    def __init__(self, monitor: str | None = None, dirpath: str | None = None, every_n_epochs: int = 1) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode="max",
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self._monitor_is_chosen = monitor is not None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose the task's metric of the averaged weights, or of the raw ones without EMA."""
        # Lightning moves checkpoint callbacks to the end, so that EMA has been set up.
        if not self._monitor_is_chosen:
            task = task_of(pl_module)
            self.monitor = f"val/{task.headline}_{'raw' if task.ema_student is None else 'ema'}"
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the best score in a run that resumes in its own folder, and start again in another folder."""
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
        else:
            folder = state_dict["dirpath"]
            rank_zero_info(f"best.ckpt will be the best from now on; that of the resumed run stays in {folder}.")


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``, the checkpoint to resume from, and the one before it as ``last.previous.ckpt``.

    It does not depend on validation. Hooks: ``on_train_batch_end`` saves after every_minutes, ``on_validation_end`` if
    that time passed before a validation, and ``on_train_epoch_end`` and ``on_train_end`` always. No step is saved
    twice.

    Args:
        dirpath: Folder. Null: "checkpoints" in the run's folder.
        every_n_epochs: Number of epochs between two writes at the end of an epoch.
        every_minutes: Minutes between two writes inside an epoch. Null: none inside an epoch.

    Raises:
        UserError: When every_n_epochs is less than 1 or every_minutes negative.
    """

    def __init__(self, dirpath: str | None = None, every_n_epochs: int = 1, every_minutes: float | None = 10.0) -> None:
        require(every_n_epochs > 0, "last_checkpoint.every_n_epochs", every_n_epochs, "1 or more")
        allowed = "0 (after every step) or more, or null"
        require(every_minutes is None or every_minutes >= 0, "last_checkpoint.every_minutes", every_minutes, allowed)
        super().__init__(dirpath=dirpath, filename="last", every_n_epochs=every_n_epochs, enable_version_counter=False)
        self.every_minutes = every_minutes
        self._last_time = time.monotonic()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the state: the last checkpoint is always replaced."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._last_time = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save inside an epoch when it is time."""
        if can_stop_after(trainer, batch_idx) and self._is_due(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a validation inside an epoch when it is time."""
        if not trainer.sanity_checking and not trainer.is_last_batch and self._is_due(trainer):
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        if (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after the last epochs."""
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint, unless this step is saved already; to be called on all processes."""
        if self._should_skip_saving_checkpoint(trainer):
            return
        assert self.dirpath is not None  # set in setup
        path = Path(self.dirpath) / "last.ckpt"
        if trainer.is_global_zero:
            keep_previous(path)
        self._save_checkpoint(trainer, str(path))
        self.best_model_path = str(path)
        self._last_time = time.monotonic()

    def _is_due(self, trainer: Trainer) -> bool:
        """Return whether every_minutes have passed on the first process."""
        if self.every_minutes is None:
            return False
        return bool(trainer.strategy.broadcast(time.monotonic() - self._last_time >= 60 * self.every_minutes))


def can_stop_after(trainer: Trainer, batch_idx: int) -> bool:
    """Return whether a run can be resumed correctly from a checkpoint at the end of this batch.

    Between accumulated batches their gradients would be lost. Before a validation or the end of the epoch, a resumed
    run would skip these; other hooks follow after them.
    """
    if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
        return False
    every = trainer.val_check_batch
    if not trainer.enable_validation or every is None or math.isinf(every):
        return True
    done = batch_idx if trainer.check_val_every_n_epoch is not None else trainer.fit_loop.total_batch_idx
    return (done + 1) % every != 0


def keep_previous(path: Path) -> None:
    """Keep a checkpoint under a second name when it is replaced."""
    if not path.is_file():
        return
    with atomic_write(previous_checkpoint(path)) as unfinished:
        try:
            os.link(path, unfinished)
        except OSError:  # a file system without links
            shutil.copyfile(path, unfinished)
