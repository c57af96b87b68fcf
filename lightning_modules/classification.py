"""Training, evaluating and using a MobileMamba as an image classifier, with or without a teacher."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_modules.checks import (
    check_checkpoint,
    check_data,
    class_counts,
    data_of,
    images_per_batch,
    images_per_step,
)
from lightning_modules.distributed import share_buffers
from lightning_modules.losses import (
    DistillationConfig,
    LossParts,
    balancing_weights,
    classification_loss,
    distillation_loss,
)
from lightning_modules.metrics import EvaluationMetrics, recognised
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.resumed_batches import follow_images
from lightning_modules.starting_weights import Start, check_preprocessing, freeze_part
from lightning_modules.student import StudentModule
from lightning_modules.teacher import Teacher, TeacherConfig, build_teacher
from lightning_modules.teacher_comparison import TeacherComparison
from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import load_strictly, student_state
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import require
from mobilemamba.metadata import ModelMetadata
from mobilemamba.published import WeightSource, split_checkpoint

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
        weights: What the network begins from: published, published:in1k, a file of weights or a checkpoint,
            local-dir:FOLDER or hf-hub:OWNER/NAME. In fit, a classifier of other classes is made anew. Null: random
            weights in fit, those of --ckpt_path elsewhere.
        weights_kind: Averaged or raw weights, where there are both.
        freeze: Part that is not trained: stem, stages.N for all up to that stage, or backbone for all but the
            classifier. Its BatchNorms stay in eval mode. Null: everything is trained.
        class_weight_power: How far the loss makes up for classes of few images: each is weighted by its number of
            training images to the power of minus this, 1 on average; 0 leaves the loss as it is, 1 balances it fully.
        channels_last: Keep images and weights in channels-last memory format, which is faster on some GPUs.
        compile: Compile the network's forward in fit; the first steps take minutes then.
        grad_checkpointing: Recompute blocks in the backward pass: less memory, about a third more time.
        image_size: Height and width of the data's images in pixels, to which it is linked: it tells published variants
            of one architecture apart.
    """

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
        super().__init__(optimizer, schedule)
        require(network.num_classes > 0, "network.num_classes", network.num_classes, "1 or more in a classifier")
        self.network_config = network
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
        self._student_kind = "raw"
        self.raw_metrics = EvaluationMetrics(network.num_classes)
        self.ema_metrics = EvaluationMetrics(network.num_classes)
        self.test_metrics = EvaluationMetrics(network.num_classes)
        self.train_top1 = MeanMetric(nan_strategy="disable")  # looking for NaN would wait for the device
        self.comparison = TeacherComparison()
        self.metadata: ModelMetadata | None = None
        self._stage: str | None = None

    def setup(self, stage: str) -> None:
        """Check that network, data and teacher fit, and build the teacher where there is something to learn.

        Raises:
            TypeError: When the datamodule lacks what this module needs.
            UserError: When classes or image sizes contradict each other.
        """
        self._stage = stage
        data = data_of(self.trainer)
        self.metadata = data.metadata()
        check_data(self.network_config, data.num_classes, self.metadata)
        if self.start is not None:
            self.start.check(data, is_evaluation=stage != "fit")
            if stage != "fit":
                self._student_kind = self.start.weights.kind
                self.metadata = self.start.weights.metadata or self.metadata
        if stage != "fit":
            return
        count, (height, width) = sum(p.numel() for p in self.student.parameters()), self.metadata.image_size
        rank_zero_info(
            f"The network has {count:,} parameters and learns {data.num_classes} classes from images of "
            f"{height} x {width} pixels, {data.batch_size} per batch and process."
        )
        if self.trainer.strategy.root_device.type == "cpu" and find_spec("numba") is None:
            rank_zero_info("Numba makes training on CPUs faster: pip install numba (docs/performance.md has figures).")
        if self.class_weight_power:
            self.class_weights = balancing_weights(class_counts(data), self.class_weight_power)
        if self.teacher_config is not None:
            teacher = build_teacher(self.teacher_config, data.num_classes, self.metadata.mean, self.metadata.std)
            teacher = teacher.to(self.trainer.strategy.root_device).to(memory_format=self._memory_format)
            self.set_unregistered("teacher", teacher)
        if self.compile_student:
            self.student.compile()  # not the whole module: logging inside compiled code fails

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
        self.train_top1.update(*recognised(logits.detach(), targets))
        self.log("train/lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
        return parts.total

    def on_train_epoch_start(self) -> None:
        """Forget the training accuracy of the last epoch."""
        self.train_top1.reset()

    def on_train_epoch_end(self) -> None:
        """Log ``train/top1``, over all processes, of the images that were hardly mixed where there were any."""
        top1 = self.train_top1.compute()
        if top1.isfinite():
            self.log("train/top1", top1, sync_dist=True)  # the same on all processes

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics and prepare the averaged network, which the trainer does not know."""
        for _, _, metrics in self._evaluated():
            metrics.reset()
        self.comparison.reset()
        if self.ema_student is not None:
            share_buffers(self.ema_student.eval())

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Evaluate raw and averaged weights on (images, class indices); return the logits of the latter, if any."""
        images, targets = batch
        logits = []
        for _, network, metrics in self._evaluated():
            logits.append(self._logits(network, images))
            metrics.update(logits[-1], targets)
        if self.teacher is not None:
            self.comparison.update(batch_idx, self.teacher, batch, logits[-1])
        return logits[-1]

    def on_validation_epoch_end(self) -> None:
        """Log the metrics as ``val/top1_raw``, ``val/top1_ema`` and so on, over all processes, and the teacher's."""
        for kind, _, metrics in self._evaluated():
            self._log_metrics(metrics, "val/{}_" + kind)
        if self.teacher is not None:
            self._log_metrics(self.comparison, "val/{}")

    def on_test_epoch_start(self) -> None:
        """Reset the metrics."""
        self.test_metrics.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Evaluate the loaded weights on (images, class indices), and return their logits."""
        logits = self(batch[0])
        self.test_metrics.update(logits, batch[1])
        return logits

    def on_test_epoch_end(self) -> None:
        """Log the metrics as ``test/top1`` and so on, over all processes."""
        self._log_metrics(self.test_metrics, "test/{}")

    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """Return "paths" and, best first, "probabilities" and "indices" (B, min(5, num_classes)) of (images, paths)."""
        images, paths = batch
        probabilities = self(images).float().softmax(dim=1)
        top = probabilities.topk(min(5, probabilities.shape[1]), dim=1)
        return {"paths": list(paths), "probabilities": top.values, "indices": top.indices}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the network and prepare its images, as plain values."""
        if self.metadata is None:
            raise RuntimeError("A checkpoint needs the metadata of the data: attach a datamodule before saving one.")
        checkpoint["mobilemamba"] = {
            "config": asdict(self.network_config),
            "metadata": self.metadata.to_dict(),
            "started_from": self.started_from,
            "images": {"step": images_per_step(self.trainer), "batch": images_per_batch(self.trainer)},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Choose weights: fit goes on with the raw ones, validate evaluates both, test and predict the averaged ones.

        Raises:
            UserError: When the checkpoint is not of this project, or of another network; names the fields.
        """
        trained = check_checkpoint(checkpoint, self.network_config)
        self.started_from = checkpoint["mobilemamba"].get("started_from")
        self._student_kind = "raw"
        raw, averaged = split_checkpoint(checkpoint)
        if self._stage == "fit":
            scales_rate = self.optimizer_config.reference_batch_size is not None
            follow_images(checkpoint, images_per_step(self.trainer), images_per_batch(self.trainer), scales_rate)
            if self.ema_student is None and averaged is not None:  # otherwise the EMA callback loads both kinds
                rank_zero_warn(
                    "This run does not average (enable.ema is false): it goes on with the raw ones of the checkpoint's "
                    "weights."
                )
                checkpoint["state_dict"] = raw
            return
        checkpoint.pop("callbacks", None)  # Lightning would warn that fit's callbacks are missing
        if self._trainer is not None:
            check_preprocessing(data_of(self.trainer), trained, is_evaluation=True)
        self.metadata = trained
        if self._stage == "validate" and averaged is not None:
            network = MobileMamba(self.network_config)
            load_strictly(network, student_state(averaged))
            self.set_unregistered("ema_student", network.to(self.trainer.strategy.root_device))
            checkpoint["state_dict"] = raw

    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        return network(images.to(memory_format=self._memory_format))

    def _loss(self, logits: Tensor, images: Tensor, targets: Tensor) -> LossParts:
        if self.teacher is None:
            return classification_loss(logits, targets, self.class_weights)
        teacher_logits = self.teacher(images)
        agreement = (logits.detach().argmax(dim=1) == teacher_logits.argmax(dim=1)).float().mean()
        self.log("train/teacher_agreement", agreement)
        return distillation_loss(logits, targets, teacher_logits, self.distillation, self.class_weights)

    def _evaluated(self) -> list[tuple[str, nn.Module, EvaluationMetrics]]:
        """Return the kinds of weights to validate, their networks and their metrics."""
        raw = (self._student_kind, self.student, self.raw_metrics)
        return [raw] if self.ema_student is None else [raw, ("ema", self.ema_student, self.ema_metrics)]

    def _log_metrics(self, metrics: EvaluationMetrics | TeacherComparison, name: str) -> None:
        for key, value in metrics.compute().items():
            self.log(name.format(key), value, prog_bar=key == "top1", sync_dist=True)  # the same on all processes
