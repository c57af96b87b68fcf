"""Skips and counts batches with a non-finite loss or gradients, and stops a run with too many of them.

A step is finite if the norm of its gradients is. After the gradients were reduced they are the same on all processes,
so that all of them decide alike: a batch that is bad on one process is skipped on all.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lightning_modules.inspection import task_of
from mobilemamba.errors import UserError, require


class NonFiniteError(UserError):
    """Too many batches had a non-finite loss or gradient, or the result is not finite; names the origin if known."""


class NonFiniteGuard(Callback):
    """Skip optimiser steps with non-finite gradients, as if their batches had not been seen.

    Hooks: ``on_train_batch_start`` saves BatchNorm statistics; ``on_before_backward`` checks the loss;
    ``on_before_optimizer_step`` drops the gradients and restores the statistics; ``on_train_batch_end`` logs
    ``train/skipped_steps`` and stops the run at the limit; ``on_fit_end``, before any export, fails a run in which most
    steps were skipped or the last validation loss is not finite. Overflows by which float16 training finds its loss
    scale are not counted.

    Args:
        limit: Skipped optimiser steps in a row at which training stops.

    Raises:
        UserError: When limit is less than 1.
    """

    def __init__(self, limit: int = 50) -> None:
        require(limit > 0, "non_finite.limit", limit, "1 (stop at the first) or more")
        self.limit = limit
        self.skipped = 0
        self.skipped_in_a_row = 0
        self.skipped_step: int | None = None
        self._loss_is_finite: Tensor | None = None
        self._statistics: list[Tensor] = []
        self._saved: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """Keep the count over a resume."""
        return {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count."""
        self.skipped = state_dict["skipped"]
        self.skipped_in_a_row = state_dict.get("skipped_in_a_row", 0)  # older checkpoints lack it

    def summary_lines(self) -> list[tuple[str, str]]:
        """Return this callback's lines of :class:`RunSummary`."""
        return [("skipped", f"{self.skipped} steps with a non-finite loss or gradients")] if self.skipped else []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the statistics that a batch changes."""
        self._statistics = [
            buffer
            for module in task_of(pl_module).student.modules()
            if isinstance(module, _BatchNorm)
            for buffer in module.buffers()
        ]
        self._saved = [torch.empty_like(buffer) for buffer in self._statistics]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save the statistics at the first batch of an optimiser step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            torch._foreach_copy_(self._saved, self._statistics)
            self._loss_is_finite = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note, without waiting for the device, whether the losses of this step are finite."""
        finite = loss.detach().isfinite()
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Make the step change nothing if its gradients are not finite."""
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not grads or get_total_norm(grads).isfinite():
            self.skipped_in_a_row = 0
            return
        loss_is_finite = self._loss_is_finite is None or bool(self._loss_is_finite)
        everywhere = trainer.strategy.reduce_boolean_decision(loss_is_finite, all=True)
        if everywhere and is_loss_scaling(trainer):
            return
        # AdamW does not change parameters without gradient, nor their averages.
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_copy_(self._statistics, self._saved)
        self.skipped += 1
        self.skipped_in_a_row += 1
        self.skipped_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the count after a skipped step, and stop at the limit.

        Raises:
            NonFiniteError: When limit steps in a row were skipped.
        """
        if self.skipped_step is None or self.skipped_step != trainer.global_step - 1:
            return
        pl_module.log("train/skipped_steps", float(self.skipped))
        rank_zero_warn(
            f"Step {self.skipped_step} was skipped: its loss or gradients are not finite ({self.skipped_in_a_row} in a "
            f"row, of at most {self.limit})."
        )
        if self.skipped_in_a_row >= self.limit:
            origin = self._origin_on_any_process(trainer, pl_module, batch)
            raise NonFiniteError(
                f"{self.skipped_in_a_row} steps in a row had a non-finite loss or gradients, the limit of "
                f"non_finite.limit. In the last batch, {origin}. Try trainer.precision bf16-mixed or 32-true, or a "
                "lower model.optimizer.learning_rate; the checkpoints written so far are kept."
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail a run without a usable result, so that nothing is exported.

        Raises:
            NonFiniteError: When most steps were skipped, or the last validation loss is not finite.
        """
        if 2 * self.skipped > trainer.global_step:
            raise NonFiniteError(
                f"{self.skipped} of {trainer.global_step} steps were skipped, since their loss or gradients were not "
                "finite: nothing is exported. Try trainer.precision bf16-mixed or 32-true, or a lower "
                "model.optimizer.learning_rate; the checkpoints are kept."
            )
        losses = {name: float(value) for name, value in trainer.callback_metrics.items() if "val/loss" in name}
        bad = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"The last validation has {', '.join(bad)}: nothing is exported. Go on from an earlier checkpoint with "
                "trainer.precision bf16-mixed or 32-true, or a lower model.optimizer.learning_rate."
            )

    def _origin_on_any_process(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> str:
        task = task_of(pl_module)
        with trainer.precision_plugin.forward_context():
            origin = find_non_finite(task.student, batch[0], task.teacher)
        origins = (trainer.strategy.broadcast(origin, src=rank) for rank in range(trainer.world_size))
        nothing = "images and outputs of all modules are finite: the loss or the backward pass is not"
        return next(filter(None, list(origins)), nothing)


def is_loss_scaling(trainer: Trainer) -> bool:
    """Return whether overflowing gradients with a finite loss only mean that float16 training adjusts its loss scale.

    The scale starts at 65536 and is halved after each overflow; below 1 the gradients themselves must be infinite.
    """
    plugin = trainer.precision_plugin
    scaler = plugin.scaler if isinstance(plugin, MixedPrecision) else None
    return scaler is not None and scaler.get_scale() >= 1


@torch.no_grad()
def find_non_finite(network: nn.Module, images: Tensor, teacher: nn.Module | None = None) -> str | None:
    """Run a network and describe where the first non-finite value appears; None if there is none.

    Args:
        network: Any network; its statistics are restored afterwards.
        images: (B, C, H, W).
        teacher: Teacher of the network, which is checked first.
    """
    if not images.isfinite().all():
        return "the images themselves hold non-finite values"
    if teacher is not None and not teacher(images).isfinite().all():
        return "the teacher's logits are not finite, whatever the student does: check model.teacher and its precision"
    for name, parameter in network.named_parameters():
        if not parameter.isfinite().all():
            return f"the parameter student.{name} holds non-finite values"
    found: list[str] = []

    def watch(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and isinstance(output, Tensor) and not output.isfinite().all():
            found.append(name)

    with ExitStack() as afterwards:
        for buffer in network.buffers():
            afterwards.callback(buffer.copy_, buffer.clone())
        # A module's hook runs after those of its parts, so the innermost module is named.
        for name, module in network.named_modules():
            if name:
                afterwards.enter_context(module.register_forward_hook(partial(watch, name)))
        network(images)
    return f"student.{found[0]} is the first module with a non-finite output" if found else None
