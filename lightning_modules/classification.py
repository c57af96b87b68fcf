"""Training and evaluation of a MobileMamba as an image classifier, with or without a teacher."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_modules.checks import class_counts
from lightning_modules.losses import (
    DistillationConfig,
    LossParts,
    balancing_weights,
    classification_loss,
    distillation_loss,
)
from lightning_modules.metrics import EvaluationMetrics, WeightedMean, recognised
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.starting_weights import Start, freeze_part
from lightning_modules.stored_distillation import as_logits, learn_from_store
from lightning_modules.student import StudentModule
from lightning_modules.teacher import Teacher, TeacherConfig, build_teacher
from lightning_modules.teacher_comparison import TeacherComparison
from mobilemamba.backbone import MobileMamba
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import require
from mobilemamba.published import WeightSource

S6 = MobileMambaConfig()
RECIPE_DISTILLATION = DistillationConfig()
RECIPE_OPTIMIZER = OptimizerConfig()
RECIPE_SCHEDULE = ScheduleConfig()


class ImageClassification(StudentModule):
    """A MobileMamba and how it is trained; batches are (images, targets), or (images, paths) to predict.

    Args:
        network: Architecture of the network; the default is MobileMamba-S6.
        teacher: Network to distil from in fit; null trains on the labels alone.
        distillation: How the teacher's logits enter the loss.
        optimizer: AdamW and its parameter groups.
        schedule: Learning rate over the run.
        weights: Starting weights: published, published:in1k, a file of weights or a checkpoint, local-dir:FOLDER or
            hf-hub:OWNER/NAME. In fit, a classifier of other classes is replaced by a new one. Null: random weights in
            fit, those of --ckpt_path otherwise.
        weights_kind: Averaged or raw weights, where there are both.
        freeze: Part that is not trained: stem, stages.N for all up to that stage, or backbone for all but the
            classifier. Its BatchNorms stay in eval mode. Null: everything is trained.
        class_weight_power: How far the loss is balanced over classes, from 0 (not) to 1 (fully): a class's weight is
            its number of training images to the power of minus this, 1 on average.
        channels_last: Keep images and weights in channels-last memory format, which is faster on some GPUs.
        compile: Compile the network's forward in fit; the first steps then take minutes.
        grad_checkpointing: Recompute blocks in the backward pass: less memory, about a third more time.
        image_size: Height and width of the data's images in pixels, linked to the data's; it chooses between published
            variants of the same architecture.
    """

    headline = "top1"
    teacher: Teacher | None
    class_weights: Tensor | None

    def __init__(
        self,
        network: MobileMambaConfig = S6,
        teacher: TeacherConfig | None = None,
        distillation: DistillationConfig = RECIPE_DISTILLATION,
        optimizer: OptimizerConfig = RECIPE_OPTIMIZER,
        schedule: ScheduleConfig = RECIPE_SCHEDULE,
        weights: str | None = None,
        weights_kind: WeightSource = "ema",
        freeze: str | None = None,
        class_weight_power: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
        grad_checkpointing: bool = False,
        image_size: int | None = None,
    ) -> None:
        super().__init__(network, optimizer, schedule)
        require(network.num_classes > 0, "network.num_classes", network.num_classes, "1 or more in a classifier")
        self.teacher_config = teacher
        self.distillation = distillation
        require(0 <= class_weight_power <= 1, "model.class_weight_power", class_weight_power, "from 0 to 1")
        self.class_weight_power = class_weight_power
        self.register_buffer("class_weights", None, persistent=False)
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.compile_student = compile
        self.student = MobileMamba(network)
        self.start = None if weights is None else Start(self.student, weights, weights_kind, image_size)
        self.started_from = weights
        self._frozen = freeze_part(self.student, freeze)
        self.student.to(memory_format=self._memory_format)
        self.student.set_grad_checkpointing(grad_checkpointing)
        self.set_metrics(lambda: EvaluationMetrics(network.num_classes))
        self.train_top1 = WeightedMean()
        self.comparison = TeacherComparison()

    def setup(self, stage: str) -> None:
        """Check that network, data and teacher fit together, and build the teacher in fit.

        Raises:
            TypeError: When the datamodule lacks what this module needs.
            UserError: When classes or image sizes contradict each other.
        """
        data = self.prepare(stage)
        if stage != "fit":
            return
        count, (height, width) = sum(p.numel() for p in self.student.parameters()), data.metadata().image_size
        rank_zero_info(
            f"The network has {count:,} parameters and learns {data.num_classes} classes from images of "
            f"{height} x {width} pixels, {data.batch_size} per batch and process."
        )
        if self.trainer.strategy.root_device.type == "cpu" and find_spec("numba") is None:
            rank_zero_info("Numba makes training on CPUs faster: pip install numba (docs/performance.md has figures).")
        if self.class_weight_power:
            self.class_weights = balancing_weights(class_counts(data), self.class_weight_power)
        if self.teacher_config is not None and self.teacher_config.stored is not None:
            learn_from_store(self.teacher_config, data)
        elif self.teacher_config is not None:
            metadata = data.metadata()
            teacher = build_teacher(self.teacher_config, data.num_classes, metadata.mean, metadata.std)
            teacher = teacher.to(self.trainer.strategy.root_device).to(memory_format=self._memory_format)
            self.set_unregistered("teacher", teacher)
        if self.compile_student:
            self.student.compile()  # not the whole module: logging inside compiled code fails

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to the student's logits (B, num_classes)."""
        return self.outputs(self.student, images)

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log its parts.

        Args:
            batch: Images (B, C, H, W) and targets, (B, num_classes) probabilities or (B,) indices. From a stored
                teacher also its probabilities (B, num_classes).
            batch_idx: Number of the batch in its epoch.
        """
        images, targets, *stored = batch
        logits = self(images)
        parts = self._loss(logits, images, targets, *map(as_logits, stored))
        self.log_losses(parts.total, {"task": parts.task, "distillation": parts.distillation})
        self.train_top1.update(*recognised(logits.detach(), targets))
        return parts.total

    def on_train_epoch_start(self) -> None:
        """Forget the training accuracy of the last epoch."""
        self.train_top1.reset()

    def on_train_epoch_end(self) -> None:
        """Log ``train/top1`` over all processes, of images that were hardly mixed, if there were any."""
        top1 = self.train_top1.compute()
        if top1.isfinite():
            self.log("train/top1", top1, sync_dist=True)  # the same on all processes

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics and the comparison with the teacher."""
        super().on_validation_epoch_start()
        self.comparison.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Evaluate raw and averaged weights on (images, class indices); return the averaged ones' logits, if any."""
        logits: Tensor = super().validation_step(batch, batch_idx)
        if self.teacher is not None:
            self.comparison.update(batch_idx, self.teacher, batch, logits)
        return logits

    def on_validation_epoch_end(self) -> None:
        """Log the metrics as ``val/top1_raw``, ``val/top1_ema`` and so on, over all processes, and the teacher's."""
        super().on_validation_epoch_end()
        if self.teacher is not None:
            self.log_metrics(self.comparison.compute(), "val/{}")

    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """Return "paths" and, best first, "probabilities" and "indices" (B, min(5, num_classes)) of (images, paths)."""
        images, paths = batch
        probabilities = self(images).float().softmax(dim=1)
        top = probabilities.topk(min(5, probabilities.shape[1]), dim=1)
        return {"paths": list(paths), "probabilities": top.values, "indices": top.indices}

    def outputs(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the logits of the student, or of its average."""
        return network(images.to(memory_format=self._memory_format))

    def _loss(self, logits: Tensor, images: Tensor, targets: Tensor, teacher_logits: Tensor | None = None) -> LossParts:
        if self.teacher is not None:
            teacher_logits = self.teacher(images)
        if teacher_logits is None:
            return classification_loss(logits, targets, self.class_weights)
        agreement = (logits.detach().argmax(dim=1) == teacher_logits.argmax(dim=1)).float().mean()
        self.log("train/teacher_agreement", agreement)
        return distillation_loss(logits, targets, teacher_logits, self.distillation, self.class_weights)
