"""Which classes are confused, and how often each one is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.classification import MulticlassConfusionMatrix

from lightning_modules.callbacks.after_validations import AfterValidations
from lightning_modules.class_results import class_accuracies, worst_classes
from lightning_modules.classification import ImageClassification
from lightning_modules.pictures.class_accuracy import draw_accuracies
from lightning_modules.pictures.confusion import draw_confusion
from lightning_modules.tensorboard import tensorboard_writer

WORST = 20
"""Classes in the table."""


class ClassResults(AfterValidations):
    """Draw confusions and the accuracy of each class: ``val/confusion``, ``val/class_accuracy``, ``val/worst_classes``.

    Hooks: those of :class:`AfterValidations`; ``setup`` makes the confusion matrix, which ``on_validation_batch_end``
    fills with the predictions of the averaged weights, or the raw ones where there are no others, on all processes.

    Args:
        every_n_validations: Validations from one time to the next; the last one always counts.

    Raises:
        ValueError: When every_n_validations is less than 1.
    """

    def __init__(self, every_n_validations: int = 20) -> None:
        super().__init__("class_results", every_n_validations)
        self._matrix: MulticlassConfusionMatrix | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the matrix.

        Raises:
            TypeError: When the module is no ImageClassification.
        """
        if not isinstance(pl_module, ImageClassification):
            raise TypeError(f"Class results are those of an ImageClassification, not of a {type(pl_module).__name__}.")
        self._matrix = MulticlassConfusionMatrix(pl_module.network_config.num_classes, validate_args=False)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count; of spawned processes, each in memory of its own."""
        super().on_validation_epoch_start(trainer, pl_module)
        assert self._matrix is not None
        self._matrix.to(pl_module.device).reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        if self.counts(trainer):
            assert self._matrix is not None
            self._matrix.update(outputs, batch[1])

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add up over processes, and write on the first one."""
        assert self._matrix is not None
        assert isinstance(pl_module, ImageClassification)
        with torch.inference_mode():
            matrix = self._matrix.compute().cpu()
        writer = tensorboard_writer(trainer)
        if writer is not None and pl_module.metadata is not None:
            write_class_results(writer, matrix, pl_module.metadata.class_names, trainer.global_step)


def write_class_results(writer: SummaryWriter, matrix: Tensor, class_names: Sequence[str] | None, step: int) -> None:
    """Write pictures and a table.

    Args:
        writer: Of a TensorBoard log.
        matrix: Images by class and prediction, (C, C), on the CPU.
        class_names: Names of all classes, if known.
        step: Optimiser steps.
    """
    writer.add_figure("val/confusion", draw_confusion(matrix, class_names), step)
    writer.add_figure("val/class_accuracy", draw_accuracies(class_accuracies(matrix), class_names), step)
    writer.add_text("val/worst_classes", worst_classes(matrix, class_names, WORST), step)
