"""Which classes are confused, and how often each one is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_modules.callbacks.after_validations import AfterValidations
from lightning_modules.class_results import class_accuracies, confusion_matrix, worst_classes
from lightning_modules.classification import ImageClassification
from lightning_modules.pictures.class_accuracy import draw_accuracies
from lightning_modules.pictures.confusion import draw_confusion
from lightning_modules.tensorboard import tensorboard_writer

WORST = 20
"""Classes in the table."""

MOST_CLASSES = 5000
"""The matrix of more would not fit into memory, or take long to look through."""


class ClassResults(AfterValidations):
    """Draw confusions and the accuracy of each class: ``val/confusion``, ``val/class_accuracy``, ``val/worst_classes``.

    Hooks: those of :class:`AfterValidations`; ``setup`` looks at the number of classes, ``on_validation_batch_end``
    keeps the predictions of the averaged weights, or the raw ones where there are no others, on all processes. They
    are counted when results are written. With more than 5,000 classes nothing is written.

    Args:
        every_n_validations: Validations from one time to the next; the last one always counts.

    Raises:
        UserError: When every_n_validations is less than 1.
    """

    def __init__(self, every_n_validations: int = 20) -> None:
        super().__init__("class_results", every_n_validations)
        self._num_classes = 0
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at the number of classes.

        Raises:
            TypeError: When the module is no ImageClassification.
        """
        if not isinstance(pl_module, ImageClassification):
            raise TypeError(f"Class results are those of an ImageClassification, not of a {type(pl_module).__name__}.")
        self._num_classes = pl_module.network_config.num_classes
        if self._num_classes > MOST_CLASSES:
            rank_zero_warn(
                f"Results of {self._num_classes:,} classes are not drawn: at most {MOST_CLASSES:,} are possible. "
                "enable.class_results = false leaves them out without this warning."
            )

    def counts(self, trainer: Trainer) -> bool:
        """Return whether this is a validation of a run that is logged, of not too many classes."""
        return super().counts(trainer) and self._num_classes <= MOST_CLASSES

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        super().on_validation_epoch_start(trainer, pl_module)
        if self.counts(trainer):
            none = torch.zeros(0, dtype=torch.int64, device=pl_module.device)  # where a validation ends before a batch
            self._predictions, self._targets = [none], [none]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the classes of a batch, on its device."""
        if self.counts(trainer):
            self._predictions.append(outputs.argmax(1))
            self._targets.append(batch[1])

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count, add up over processes, and write on the first one."""
        assert isinstance(pl_module, ImageClassification)
        own = confusion_matrix(torch.cat(self._predictions), torch.cat(self._targets), self._num_classes)
        matrix = trainer.strategy.reduce(own.to(pl_module.device), reduce_op="sum").cpu()
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
