"""Logs norms of weights and gradients, part by part."""

from __future__ import annotations

import re

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lightning_modules.inspection import task_of

PART = re.compile(r"stages\.\d+|[^.]+")
"""Beginning of a parameter's name: stem, stages.0, stages.1, ..., head."""


class PartNorms(Callback):
    """Log norms of weights and gradients of stem, stages and head: ``weight_norm/PART``, ``weight_gradient_norm/PART``.

    Hooks: ``on_before_optimizer_step``, at the steps that are logged. Gradients are those before clipping; frozen parts
    have none, and neither has a step that was skipped.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the norms, without waiting for the device."""
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (trainer.global_step + 1) % interval or not trainer.loggers:
            return
        weights: dict[str, list[Tensor]] = {}
        gradients: dict[str, list[Tensor]] = {}
        for name, parameter in task_of(pl_module).student.named_parameters():
            part = PART.match(name)
            assert part is not None  # every parameter is in a module
            weights.setdefault(part[0], []).append(parameter.detach())
            if parameter.grad is not None:
                gradients.setdefault(part[0], []).append(parameter.grad)
        for tag, tensors in (("weight_norm", weights), ("weight_gradient_norm", gradients)):
            pl_module.log_dict({f"{tag}/{part}": get_total_norm(of_part) for part, of_part in tensors.items()})
