"""Training, evaluating and using a MobileMamba as an image classifier, with or without a teacher.

The network trained is ``student``. Two more networks take part without belonging to the module, so that neither
optimiser nor checkpoints nor copies of the module contain them: the frozen ``teacher`` (in fit alone) and
``ema_student``, the averaged weights, which are validated beside the raw ones.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules.compatibility import ClassificationData, check_data, check_same_network
from lightning_modules.distributed import share_buffers
from lightning_modules.losses import DistillationConfig, LossParts, classification_loss, distillation_loss
from lightning_modules.metrics import EvaluationMetrics
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig, make_optimizer, make_schedule
from lightning_modules.teacher import Teacher, TeacherConfig, build_teacher
from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import load_strictly, student_state
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata
from mobilemamba.published import split_checkpoint

S6 = MobileMambaConfig()
RECIPE_DISTILLATION = DistillationConfig()
RECIPE_OPTIMIZER = OptimizerConfig()
RECIPE_SCHEDULE = ScheduleConfig()

TOP_K = 5
"""Classes given per image in predictions."""


class ImageClassification(LightningModule):
    """A MobileMamba and how it is trained; batches are (images, targets), or (images, paths) to predict.

    Args:
        network: Architecture of the network; the default is MobileMamba-S6.
        teacher: Network to distil from in fit; null trains on the labels alone.
        distillation: How the teacher's logits enter the loss.
        optimizer: AdamW and its parameter groups.
        schedule: Learning rate over the run.
        channels_last: Keep images and the weights of student and teacher in channels-last memory format, faster on
            some GPUs.
        compile: Compile the network's forward in fit; the first steps take minutes then.
        grad_checkpointing: Recompute blocks in the backward pass: less memory, about a third more time.
    """

    teacher: Teacher | None
    ema_student: nn.Module | None

    def __init__(
        self,
        network: MobileMambaConfig = S6,
        teacher: TeacherConfig | None = None,
        distillation: DistillationConfig = RECIPE_DISTILLATION,
        optimizer: OptimizerConfig = RECIPE_OPTIMIZER,
        schedule: ScheduleConfig = RECIPE_SCHEDULE,
        channels_last: bool = False,
        compile: bool = False,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if network.num_classes < 1:
            raise UserError("network.num_classes = 0 must be 1 or more: a classifier needs at least one class.")
        self.network_config = network
        self.teacher_config = teacher
        self.distillation = distillation
        self.optimizer_config = optimizer
        self.schedule_config = schedule
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.compile_student = compile
        self.student = MobileMamba(network).to(memory_format=self._memory_format)
        self.student.set_grad_checkpointing(grad_checkpointing)
        self.raw_metrics = EvaluationMetrics(network.num_classes)
        self.ema_metrics = EvaluationMetrics(network.num_classes)
        self.test_metrics = EvaluationMetrics(network.num_classes)
        self.metadata: ModelMetadata | None = None
        self._stage: str | None = None
        self.set_unregistered("teacher", None)
        self.set_unregistered("ema_student", None)

    def set_unregistered(self, name: str, network: nn.Module | None) -> None:
        """Set an attribute to a network without making it a submodule.

        Args:
            name: "teacher" or "ema_student".
            network: The network, already on the device of the module, or None.
        """
        # Assigning as usual would put it into state_dict, parameters() and every copy of this module.
        object.__setattr__(self, name, network)

    def setup(self, stage: str) -> None:
        """Check that network, data and teacher fit, and build the teacher where there is something to learn.

        Raises:
            TypeError: When the datamodule lacks what this module needs.
            UserError: When classes or image sizes contradict each other.
        """
        self._stage = stage
        data = self._data()
        self.metadata = data.metadata()
        check_data(self.network_config, data.num_classes, self.metadata)
        if stage != "fit":
            return
        height, width = self.metadata.image_size
        rank_zero_info(
            f"The network has {sum(parameter.numel() for parameter in self.student.parameters()):,} parameters and "
            f"learns {data.num_classes} classes from images of {height} x {width} pixels, {data.batch_size} per batch "
            "and process."
        )
        if self.teacher_config is not None:
            teacher = build_teacher(
                self.teacher_config, self.network_config.num_classes, self.metadata.mean, self.metadata.std
            )
            teacher = teacher.to(self.trainer.strategy.root_device).to(memory_format=self._memory_format)
            self.set_unregistered("teacher", teacher)
        if self.compile_student:
            # Only the network: logging inside compiled code fails.
            self.student.compile()

    def teardown(self, stage: str) -> None:
        """Let go of the networks that are not part of the module."""
        self.set_unregistered("teacher", None)
        self.set_unregistered("ema_student", None)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to the student's logits (B, num_classes)."""
        return self._logits(self.student, images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log its parts.

        Args:
            batch: Images (B, C, H, W) and targets, (B, num_classes) probabilities or (B,) indices.
            batch_idx: Number of the batch in its epoch.
        """
        images, targets = batch
        logits = self(images)
        parts = self._loss(logits, images, targets)
        self.log("train/loss", parts.total.detach(), prog_bar=True)
        self.log("train/loss_task", parts.task.detach())
        if parts.distillation is not None:
            self.log("train/loss_distillation", parts.distillation.detach())
        self.log("optim/lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return parts.total

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer is told to, and log the norm of all gradients before clipping."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:  # the step of this batch is skipped
            return
        # Clipping by norm needs the norm anyway: it is computed once for both.
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.log("train/grad_norm", norm)
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_validation_epoch_start(self) -> None:
        """Begin to count, and prepare the averaged network, of which neither trainer nor strategy knows."""
        for _, _, metrics in self._evaluated():
            metrics.reset()
        if self.ema_student is not None:
            share_buffers(self.ema_student.eval())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Evaluate raw and averaged weights on (images, class indices).

        Returns:
            Logits (B, num_classes) of the weights that count: the averaged ones, or the raw ones where there are no
            others.
        """
        images, targets = batch
        logits = []
        for _, network, metrics in self._evaluated():
            logits.append(self._logits(network, images))
            metrics.update(logits[-1], targets)
        return logits[-1]

    def on_validation_epoch_end(self) -> None:
        """Log ``val/{top1,top5,loss}_{raw,ema}`` over all processes."""
        for kind, _, metrics in self._evaluated():
            self._log_metrics(metrics, "val/{}_" + kind)

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self.test_metrics.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Evaluate the loaded weights on (images, class indices)."""
        images, targets = batch
        self.test_metrics.update(self(images), targets)

    def on_test_epoch_end(self) -> None:
        """Log ``test/{top1,top5,loss}`` over all processes."""
        self._log_metrics(self.test_metrics, "test/{}")

    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """Return "paths" and, best first, "probabilities" and "indices" (B, min(5, num_classes)) of (images, paths)."""
        images, paths = batch
        probabilities = self(images).float().softmax(dim=1)
        top = probabilities.topk(min(TOP_K, probabilities.shape[1]), dim=1)
        return {"paths": list(paths), "probabilities": top.values, "indices": top.indices}

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW and its schedule, which is stepped after every optimiser step.

        Raises:
            UserError: When the run has no known end, which a cosine needs.
        """
        trainer = self.trainer
        images_per_step = self._data().batch_size * trainer.world_size * trainer.accumulate_grad_batches
        optimizer = make_optimizer(self.student, self.optimizer_config, images_per_step)
        total = trainer.estimated_stepping_batches
        steps_per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        if math.isinf(total) or math.isinf(steps_per_epoch):
            raise UserError(
                f"trainer.max_epochs = {trainer.max_epochs} with trainer.max_steps = {trainer.max_steps} and "
                f"{trainer.num_training_batches} batches per epoch has no known end, which the cosine schedule needs: "
                "set trainer.max_epochs to a positive number and use data of known length."
            )
        warmup = round(self.schedule_config.warmup_epochs * math.ceil(steps_per_epoch))
        if warmup >= total:
            rank_zero_info(
                f"The warm-up of {warmup} steps (schedule.warmup_epochs = {self.schedule_config.warmup_epochs}) is not "
                f"over when training ends after {total}: the learning rate never reaches its peak."
            )
        schedule = LambdaLR(optimizer, make_schedule(int(total), warmup, self.schedule_config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the network and prepare its images, as plain values."""
        if self.metadata is None:
            raise RuntimeError("A checkpoint needs the metadata of the data: attach a datamodule before saving one.")
        checkpoint["mobilemamba"] = {"config": asdict(self.network_config), "metadata": self.metadata.to_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse checkpoints of other networks, and take the weights that are needed from one that has two kinds.

        A fit goes on with the raw ones, validate evaluates both, test and predict use the averaged ones.

        Raises:
            UserError: When the checkpoint is not of this project, or of another network; names the fields.
        """
        if "mobilemamba" not in checkpoint:
            raise UserError(f"This is no training checkpoint of this project: it holds {sorted(checkpoint)[:10]}.")
        check_same_network(checkpoint["mobilemamba"]["config"], self.network_config)
        raw, averaged = split_checkpoint(checkpoint)
        if self._stage == "fit":
            # Where there is averaging, its callback loads both kinds.
            if self.ema_student is None and averaged is not None:
                rank_zero_warn(
                    "The checkpoint holds raw and averaged weights, but this run does not average (enable.ema is "
                    "false): it goes on with the raw ones and drops the average."
                )
                checkpoint["state_dict"] = raw
            return
        # The states of fit's callbacks are of no use here, and Lightning would warn that their callbacks are missing.
        checkpoint.pop("callbacks", None)
        self._restore_metadata(ModelMetadata.from_dict(checkpoint["mobilemamba"]["metadata"]))
        if self._stage == "validate" and averaged is not None:
            network = MobileMamba(self.network_config)
            load_strictly(network, student_state(averaged))
            self.set_unregistered("ema_student", network.to(self.trainer.strategy.root_device))
            checkpoint["state_dict"] = raw

    def _restore_metadata(self, trained: ModelMetadata) -> None:
        data = self.metadata
        if data is not None and (data.mean, data.std) != (trained.mean, trained.std):
            rank_zero_warn(
                f"The data are normalised with mean {data.mean} and std {data.std}, the weights were trained with mean "
                f"{trained.mean} and std {trained.std}: results will be worse than they could be. Set data.mean and "
                "data.std to the latter."
            )
        self.metadata = trained

    def _data(self) -> ClassificationData:
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ClassificationData):
            raise TypeError(
                f"The datamodule is {type(data).__name__}: ImageClassification needs one with num_classes, batch_size "
                "and metadata(), such as datamodules.ImageNetDataModule."
            )
        return data

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images.to(memory_format=self._memory_format))

    def _loss(self, logits: Tensor, images: Tensor, targets: Tensor) -> LossParts:
        if self.teacher is None:
            return classification_loss(logits, targets)
        teacher_logits = self.teacher(images)
        agreement = (logits.detach().argmax(dim=1) == teacher_logits.argmax(dim=1)).float().mean()
        self.log("train/teacher_agreement", agreement)
        return distillation_loss(logits, targets, teacher_logits, self.distillation)

    def _evaluated(self) -> list[tuple[str, nn.Module, EvaluationMetrics]]:
        """Return the kinds of weights to validate, their networks and their metrics."""
        raw = ("raw", self.student, self.raw_metrics)
        return [raw] if self.ema_student is None else [raw, ("ema", self.ema_student, self.ema_metrics)]

    def _log_metrics(self, metrics: EvaluationMetrics, name: str) -> None:
        for key, value in metrics.compute().items():
            # The same on every process already; sync_dist only tells Lightning so.
            self.log(name.format(key), value, prog_bar=key == "top1", sync_dist=True)
