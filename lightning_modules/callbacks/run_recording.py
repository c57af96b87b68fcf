"""Writes a run's results and costs into its folder."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sized
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.inspection import is_trial, run_folder, task_of
from lightning_modules.run_record import RunRecord
from mobilemamba.environment import device_name


class RunRecording(Callback):
    """Write ``record.json`` into the run's folder, whole or not at all, and continue it over resumes.

    Hooks: ``on_fit_start`` starts the clock; ``on_train_batch_end`` adds up the training loss; ``on_validation_end``
    adds a point to every curve and writes; ``on_train_end`` stops the clock; ``on_fit_end``, which an interrupted or
    failed fit never reaches, marks the run as finished. The first process writes. The training loss is the mean over
    its steps since the last validation, without those whose loss was not finite.

    The state is saved in checkpoints, so that a resumed run continues it, even if nothing is left to train. Steps after
    the checkpoint are trained again, and their results and time are not counted twice.
    """

    def __init__(self) -> None:
        self.curves: dict[str, list[float | None]] = {"epoch": [], "train/loss": []}
        self.metrics: dict[str, float | None] = {}
        self.validation_images: int | None = None
        self.seconds_before = 0.0
        self.peak_memory = 0
        self._started: float | None = None
        self._loss_sum: Tensor | float = 0.0
        self._loss_steps: Tensor | int = 0

    @property
    def state_key(self) -> str:
        """Key in checkpoints, the class's former name, for older checkpoints."""
        return "RunRecord"

    def state_dict(self) -> dict[str, Any]:
        """Keep the state over a resume."""
        return {
            "curves": self.curves,
            "metrics": self.metrics,
            "validation_images": self.validation_images,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory,
            "loss_sum": float(self._loss_sum),
            "loss_steps": int(self._loss_steps),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.curves = {name: list(values) for name, values in state_dict["curves"].items()}
        self.metrics = dict(state_dict["metrics"])
        self.validation_images = state_dict["validation_images"]
        self.seconds_before = state_dict["seconds"]
        self.peak_memory = state_dict["peak_memory_bytes"]
        self._loss_sum, self._loss_steps = state_dict["loss_sum"], state_dict["loss_steps"]

    @property
    def seconds(self) -> float:
        """Wall time of fit in seconds, including the time before a resume."""
        return self.seconds_before + (0.0 if self._started is None else time.perf_counter() - self._started)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and reset the memory statistics of a GPU."""
        self._started = time.perf_counter()
        device = trainer.strategy.root_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss of a batch, without waiting for the device."""
        if outputs is None:
            return
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning has divided it
        known = loss.isfinite()
        self._loss_sum = self._loss_sum + torch.where(known, loss, 0.0)
        self._loss_steps = self._loss_steps + known

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to every curve, before the checkpoint of this epoch is written, and write the record."""
        if trainer.sanity_checking or is_trial(trainer):
            return
        steps = int(self._loss_steps)
        loss = float(self._loss_sum) / steps if steps else math.nan
        self._loss_sum, self._loss_steps = 0.0, 0
        logged = trainer.callback_metrics
        metrics = {name: float(logged[name]) for name in sorted(logged) if name.startswith("val/")}
        add_point(self.curves, {"epoch": trainer.current_epoch, "train/loss": loss} | metrics)
        self.metrics = {name: finite(value) for name, value in metrics.items()}
        self.validation_images = evaluated_images(trainer)
        self._write(trainer, pl_module, finished=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock: exports do not count as training."""
        self.seconds_before, self._started = self.seconds, None
        self.peak_memory = max(self.peak_memory, peak_memory(trainer.strategy.root_device))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the run as finished."""
        self._started = None  # on_train_end is not called if nothing was left to train
        if not is_trial(trainer):
            self._write(trainer, pl_module, finished=True)

    def _write(self, trainer: Trainer, pl_module: LightningModule, finished: bool) -> None:
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        device, student = trainer.strategy.root_device, task_of(pl_module).student
        if self._started is not None:
            self.peak_memory = max(self.peak_memory, peak_memory(device))
        RunRecord(
            finished=finished,
            # The running epoch counts.
            epochs=trainer.current_epoch + (0 if finished else 1),
            steps=trainer.global_step,
            seconds=round(self.seconds, 3),
            num_classes=task_of(pl_module).num_classes,
            validation_images=self.validation_images,
            parameters=sum(parameter.numel() for parameter in student.parameters()),
            device=device_name(device),
            peak_memory_bytes=self.peak_memory,
            peak_memory_of="CUDA allocator" if device.type == "cuda" else "process",
            metrics=self.metrics,
            curves=self.curves,
        ).write(folder)


def add_point(curves: dict[str, list[float | None]], point: dict[str, float]) -> None:
    """Append values to curves, including "epoch", in place; missing ones are None, so that all have the same length."""
    length = len(curves["epoch"])
    for name in curves.keys() | point.keys():
        curves.setdefault(name, [None] * length).append(finite(point[name]) if name in point else None)


def evaluated_images(trainer: Trainer) -> int | None:
    """Return the number of validation images; None if it is unknown or limited by the trainer."""
    dataset = getattr(trainer.val_dataloaders, "dataset", None)
    return len(dataset) if trainer.limit_val_batches == 1.0 and isinstance(dataset, Sized) else None


def finite(value: float) -> float | None:
    """Return a number, or None if it is not finite, since JSON has no such numbers."""
    return value if math.isfinite(value) else None


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of CUDA's allocator or, on other devices, of this process in bytes; 0 on Windows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
