"""The common part of all tasks: optimiser, clipping, averaged weights, evaluation and checkpoints.

The trained network is ``student``. Two more networks are not registered as submodules, so that optimiser, checkpoints
and copies of the module do not contain them: the frozen ``teacher``, only in fit, and ``ema_student`` with the averaged
weights, which are validated beside the raw ones.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_
from torch.optim import Optimizer

from lightning_modules.checks import (
    ClassificationData,
    check_checkpoint,
    check_data,
    data_of,
    images_per_batch,
    images_per_step,
)
from lightning_modules.distributed import share_buffers
from lightning_modules.optimization import (
    OptimizerConfig,
    ScheduleConfig,
    gradient_norm,
    make_optimizer,
    schedule_of_run,
)
from lightning_modules.resumed_batches import follow_images
from lightning_modules.starting_weights import Start, check_preprocessing
from mobilemamba.checkpoints import student_state
from mobilemamba.config import MobileMambaConfig
from mobilemamba.metadata import ModelMetadata
from mobilemamba.published import split_checkpoint


class Metrics(Protocol):
    """Metrics of one set of weights over a data set."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Add the network's outputs and the targets of a batch."""

    def compute(self) -> dict[str, Tensor]:
        """Return values by name, over all processes."""

    def reset(self) -> None:
        """Forget all batches."""


class StudentModule(LightningModule):
    """A network in training; tasks add its loss and its metrics.

    Args:
        network: Architecture of the backbone.
        optimizer: AdamW and its parameter groups.
        schedule: Learning rate over the run.
    """

    headline: str
    """Metric by which weights are compared; higher is better."""
    start: Start | None = None
    """Starting weights of the network."""
    started_from: str | None = None
    metadata: ModelMetadata | None = None
    student: nn.Module
    teacher: nn.Module | None
    ema_student: nn.Module | None

    def __init__(self, network: MobileMambaConfig, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.network_config = network
        self.optimizer_config = optimizer
        self.schedule_config = schedule
        self._frozen: list[nn.Module] = []
        self._student_kind = "raw"
        self._stage: str | None = None
        self.set_unregistered("teacher", None)
        self.set_unregistered("ema_student", None)

    def set_unregistered(self, name: str, network: nn.Module | None) -> None:
        """Set "teacher" or "ema_student" to a network without making it a submodule."""
        object.__setattr__(self, name, network)

    def set_metrics(self, make: Callable[[], nn.Module]) -> None:
        """Make the metrics of raw, averaged and tested weights."""
        self.raw_metrics, self.ema_metrics, self.test_metrics = (make() for _ in range(3))

    @property
    def num_classes(self) -> int:
        """Number of classes of the network."""
        return self.network_config.num_classes

    def head_description(self) -> dict[str, Any]:
        """Return the description of the network's head for checkpoints, as plain values."""
        return {}

    def prepare(self, stage: str) -> ClassificationData:
        """Check that network, data and starting weights fit, and return the data.

        Raises:
            TypeError: When the datamodule lacks what this module needs.
            UserError: When classes or image sizes contradict each other.
        """
        self._stage = stage
        data = data_of(self.trainer)
        self.metadata = data.metadata()
        check_data(self.network_config, self.num_classes, data.num_classes, self.metadata)
        if self.start is not None:
            self.start.check(data, is_evaluation=stage != "fit")
            if stage != "fit":
                self._student_kind = self.start.weights.kind
                self.metadata = self.start.weights.metadata or self.metadata
        return data

    def outputs(self, network: nn.Module, images: Any) -> Any:
        """Return the outputs of the student, or of its average, for the images of a batch."""
        return network(images)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep frozen parts in eval mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def teardown(self, stage: str) -> None:
        """Drop the networks that are not submodules."""
        self.set_unregistered("teacher", None)
        self.set_unregistered("ema_student", None)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed drop path and dropout by run, process and batch, so that a resumed run has the same draws."""
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        names = int(os.environ.get("PL_GLOBAL_SEED", 0)), self.trainer.global_rank, batches.total.processed
        torch.manual_seed(int(np.random.SeedSequence(names).generate_state(1)[0]))

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients by the trainer's options, and log their norm before clipping."""
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

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics, and prepare the averaged network, which the trainer does not manage."""
        for _, _, metrics in self._evaluated():
            metrics.reset()
        if self.ema_student is not None:
            share_buffers(self.ema_student.eval())

    def validation_step(self, batch: tuple[Any, Any], batch_idx: int) -> Any:
        """Evaluate raw and averaged weights on (images, targets); return the outputs of the averaged ones, if any."""
        images, targets = batch
        outputs = []
        for _, network, metrics in self._evaluated():
            outputs.append(self.outputs(network, images))
            metrics.update(outputs[-1], targets)
        return outputs[-1]

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, such as ``val/top1_raw`` and ``val/top1_ema``, over all processes."""
        for kind, _, metrics in self._evaluated():
            self.log_metrics(metrics.compute(), "val/{}_" + kind)

    def on_test_epoch_start(self) -> None:
        """Reset the metrics."""
        cast(Metrics, self.test_metrics).reset()

    def test_step(self, batch: tuple[Any, Any], batch_idx: int) -> Any:
        """Evaluate the loaded weights on (images, targets), and return their outputs."""
        outputs = self.outputs(self.student, batch[0])
        cast(Metrics, self.test_metrics).update(outputs, batch[1])
        return outputs

    def on_test_epoch_end(self) -> None:
        """Log the metrics, such as ``test/top1``, over all processes."""
        self.log_metrics(cast(Metrics, self.test_metrics).compute(), "test/{}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the description of network and preprocessing, as plain values."""
        if self.metadata is None:
            raise RuntimeError("A checkpoint needs the metadata of the data: attach a datamodule before saving one.")
        checkpoint["mobilemamba"] = {
            "config": asdict(self.network_config),
            "head": self.head_description(),
            "metadata": self.metadata.to_dict(),
            "started_from": self.started_from,
            "images": {"step": images_per_step(self.trainer), "batch": images_per_batch(self.trainer)},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Choose weights: fit resumes the raw ones, validate evaluates both, test and predict use the averaged ones.

        Raises:
            UserError: When the checkpoint is not from this project, or its network differs; names the fields.
        """
        trained = check_checkpoint(checkpoint, self.network_config, self.head_description())
        self.started_from = checkpoint["mobilemamba"].get("started_from")
        self._student_kind = "raw"
        raw, averaged = split_checkpoint(checkpoint)
        if self._stage == "fit":
            scales_rate = self.optimizer_config.reference_batch_size is not None
            images = images_per_step(self.trainer), images_per_batch(self.trainer)
            follow_images(checkpoint, *images, scales_rate, self.trainer.max_steps > 0)
            if self.ema_student is None and averaged is not None:  # otherwise the EMA callback loads both kinds
                rank_zero_warn(
                    "This run does not average weights (enable.ema is false): it resumes the raw weights of the "
                    "checkpoint."
                )
                checkpoint["state_dict"] = raw
            return
        checkpoint.pop("callbacks", None)  # Lightning would warn that fit's callbacks are missing
        if self._trainer is not None:
            check_preprocessing(data_of(self.trainer), trained, is_evaluation=True)
        self.metadata = trained
        if self._stage == "validate" and averaged is not None:
            network = copy.deepcopy(self.student)
            network.load_state_dict(student_state(averaged))
            self.set_unregistered("ema_student", network.to(self.trainer.strategy.root_device))
            checkpoint["state_dict"] = raw

    def _evaluated(self) -> list[tuple[str, nn.Module, Metrics]]:
        """Return the kinds of weights to validate, their networks and their metrics."""
        raw = (self._student_kind, self.student, cast(Metrics, self.raw_metrics))
        if self.ema_student is None:
            return [raw]
        return [raw, ("ema", self.ema_student, cast(Metrics, self.ema_metrics))]

    def log_losses(self, total: Tensor, parts: Mapping[str, Tensor | None]) -> None:
        """Log the loss of a training batch, its parts that are not None, and the learning rate."""
        self.log("train/loss", total.detach(), prog_bar=True)
        for name, part in parts.items():
            if part is not None:
                self.log(f"train/loss_{name}", part.detach())
        self.log("train/lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))

    def log_metrics(self, figures: Mapping[str, Tensor], name: str) -> None:
        """Log all metrics of a data set; ``name`` has {} for the name of the metric."""
        for key, value in figures.items():
            on_bar = key == self.headline
            self.log(name.format(key), value, prog_bar=on_bar, sync_dist=True)  # the same on all processes
