"""What training has in common, whatever the task: optimiser, clipping, averaged weights and frozen parts.

The network that is trained is ``student``. Two more networks are not registered as submodules, so that optimiser,
checkpoints and copies of the module do not contain them. They are the frozen ``teacher``, in fit alone, and
``ema_student``, the averaged weights, which are validated beside the raw ones.
"""

from __future__ import annotations

from typing import Self

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer

from lightning_modules.checks import images_per_step
from lightning_modules.optimization import (
    OptimizerConfig,
    ScheduleConfig,
    gradient_norm,
    make_optimizer,
    schedule_of_run,
)


class StudentModule(LightningModule):
    """A network in training; tasks add its loss and its metrics.

    Args:
        optimizer: AdamW and its parameter groups.
        schedule: Learning rate over the run.
    """

    student: nn.Module
    teacher: nn.Module | None
    ema_student: nn.Module | None

    def __init__(self, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.optimizer_config = optimizer
        self.schedule_config = schedule
        self._frozen: list[nn.Module] = []
        self.set_unregistered("teacher", None)
        self.set_unregistered("ema_student", None)

    def set_unregistered(self, name: str, network: nn.Module | None) -> None:
        """Set "teacher" or "ema_student" to a network without putting it into parameters and copies of this module."""
        object.__setattr__(self, name, network)

    def train(self, mode: bool = True) -> Self:
        """Leave frozen parts in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def teardown(self, stage: str) -> None:
        """Drop the networks that are not submodules."""
        self.set_unregistered("teacher", None)
        self.set_unregistered("ema_student", None)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the trainer is told to, and log the norm of all gradients before clipping."""
        parameters, norm = gradient_norm(optimizer)  # clipping needs the norm, too
        if not parameters:  # the step of this batch is skipped
            return
        self.log("train/grad_norm", norm)
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and its schedule, which is stepped after every optimiser step.

        Raises:
            UserError: When the run has no known end, which a cosine needs.
        """
        optimizer = make_optimizer(self.student, self.optimizer_config, images_per_step(self.trainer))
        schedule = schedule_of_run(self.trainer, optimizer, self.schedule_config)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
