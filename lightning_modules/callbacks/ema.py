"""Exponential moving average of the weights, validated beside the raw ones.

Checkpoints follow Lightning's convention: ``state_dict`` holds the average, ``current_model_state`` the raw weights.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_modules.callbacks.non_finite import NonFiniteGuard
from lightning_modules.inspection import Task, find_callback, task_of
from mobilemamba.errors import require

WARMUP_POWER = 2 / 3
"""Exponent of the warm-up of the decay, timm's default."""


class EMA(WeightAveraging):
    """Average all floating-point state (parameters and BatchNorm statistics) over the optimiser steps of a fit.

    Hooks: ``setup`` copies the module and gives it the averaged network as ``ema_student``, which it validates beside
    the raw one; ``on_train_batch_end`` updates; checkpoints hold both. Unlike Lightning's averaging, weights are never
    swapped: the module's student keeps its raw weights. A step that the :class:`NonFiniteGuard` skipped is not
    averaged.

    Args:
        decay: Weight of the old average in each update.
        warmup: Start with a smaller decay, 1 - (updates + 1)^(-2/3), until that exceeds decay: for runs of few steps.

    Raises:
        UserError: When decay is not in [0, 1).
    """

    def __init__(self, decay: float = 0.9998, warmup: bool = False) -> None:
        require(0 <= decay < 1, "ema.decay", decay, "a number in [0, 1)")
        super().__init__(use_buffers=True, multi_avg_fn=self._average)
        self.decay = decay
        self.warmup = warmup
        self._guard: NonFiniteGuard | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the module before its teacher exists, so that the teacher is never copied."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._guard = find_callback(trainer, NonFiniteGuard)
        assert self._average_model is not None  # made by Lightning's setup
        # The copy is still on the CPU: it must be on the device of training, for updates and validation.
        trainer.precision_plugin.convert_module(self._average_model)
        self._average_model.to(trainer.strategy.root_device)
        averaged = cast(Task, self._average_model.module)
        task_of(pl_module).set_unregistered("ema_student", averaged.student.eval())

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether to average this step: it was not skipped."""
        return step_idx is not None and (self._guard is None or self._guard.skipped_step != step_idx)

    def decay_after(self, steps: int) -> float:
        """Return the decay of the next update after a number of averaged optimiser steps."""
        return min(self.decay, 1 - (1 + steps) ** -WARMUP_POWER) if self.warmup else self.decay

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not swap weights: the module evaluates both networks."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not swap weights back."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the raw weights in the student; exports choose their weights themselves."""

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Resume the average in fit, or start it from the weights of a run without one, with a warning.

        In evaluation, and in fit without this callback, the module itself chooses the weights.
        """
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _average(self, averaged: Any, current: Any, steps: Tensor | int) -> None:
        """Update tensors of one device and dtype in place, after a number of averaged steps."""
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - self.decay_after(int(steps)))
            return
        # Counters (BatchNorm's number of batches) have no average.
        for ours, theirs in zip(averaged, current, strict=True):
            ours.copy_(theirs)
