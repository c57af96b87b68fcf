"""Logs training speed, and the share of time that waits for data."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

WAIT_LIMIT = 0.1
"""The loader is the bottleneck above this share of time spent waiting for data."""

MEASURED_STEPS = 50
"""Fewer steps in an epoch are too few for a warning."""


class Throughput(Callback):
    """Log ``train/images_per_second`` (all processes) and ``train/data_wait``, the share of time waiting for data.

    Hooks: ``on_train_batch_start`` and ``on_train_batch_end`` take the time; values are means since the last logged
    step. Validation, and the first batch of an epoch with its start of workers, are not measured. Warns once, at the
    end of an epoch, when data_wait is above 10 %.
    """

    def __init__(self) -> None:
        self._warned = False
        self._batch_ready = 0.0
        self._batch_done: float | None = None
        self._steps: list[tuple[int, float, float]] = []  # of this epoch: images, seconds of waiting, and all seconds
        self._logged = 0  # steps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start again."""
        self._batch_done = None
        self._steps, self._logged = [], 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time of a validation inside an epoch."""
        self._batch_done = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record when the batch arrived."""
        self._batch_ready = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the step, and log where the trainer logs."""
        now, previous = time.perf_counter(), self._batch_done
        self._batch_done = now
        if previous is None:
            return
        self._steps.append((len(batch[0]) * trainer.world_size, self._batch_ready - previous, now - previous))
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.global_step % interval == 0:
            images, waiting, seconds = map(sum, zip(*self._steps[self._logged :], strict=True))
            pl_module.log("train/images_per_second", images / seconds, prog_bar=True)
            pl_module.log("train/data_wait", waiting / seconds)
            self._logged = len(self._steps)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn when most of an epoch's steps waited for the loader."""
        if self._warned or len(self._steps) < MEASURED_STEPS:
            return
        _, waiting, seconds = map(sum, zip(*self._steps, strict=True))
        data_wait = waiting / seconds
        if data_wait > WAIT_LIMIT:
            self._warned = True
            rank_zero_warn(
                f"Training waits for data {data_wait:.0%} of the time (train/data_wait): the loader is the bottleneck. "
                "Raise data.num_workers up to the number of CPU cores, or use faster storage."
            )
