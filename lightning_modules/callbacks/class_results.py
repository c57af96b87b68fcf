"""Which classes are confused, and how often each one is recognised."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from lightning_modules.callbacks.after_validations import AfterValidations
from lightning_modules.inspection import is_trial, metadata_of, run_folder, task_of
from lightning_modules.pictures.class_results import (
    ClassResult,
    class_accuracies,
    class_results,
    draw_accuracies,
    draw_confusion,
    results_table,
    worst_classes,
)
from lightning_modules.run_log import log_picture, log_text, takes_pictures
from mobilemamba.files import write_text
from mobilemamba.tables import safe_cell

PRINTED = 5
"""Number of classes that an evaluation prints."""

FILE_NAME = "class_results.csv"

MOST_CLASSES = 5000
"""The confusion matrix of more classes would not fit into memory."""


class ClassResults(AfterValidations):
    """Draw confusions and the accuracy of each class: ``val/confusion``, ``val/class_accuracy``, ``val/worst_classes``.

    At the end, recall, precision and F1 of each class in the last validation are written to ``class_results.csv`` in
    the run's folder, with any logger, and as the text ``val/class_results``. An evaluation prints the classes with the
    lowest recall.

    Hooks: those of :class:`AfterValidations`; ``setup`` checks the number of classes, ``on_validation_batch_end`` keeps
    the predictions of the averaged weights (raw ones without EMA) on all processes. They are counted when results are
    written. With more than 5,000 classes nothing is written.

    Args:
        every_n_validations: Number of validations between two results; the last one is always written.

    Raises:
        UserError: When every_n_validations is less than 1.
    """

    def __init__(self, every_n_validations: int = 20) -> None:
        super().__init__("class_results", every_n_validations)
        self._num_classes = 0
        self._predictions: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._worst = ""
        self._table: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the number of classes."""
        self._num_classes = task_of(pl_module).student.num_classes
        if self._num_classes > MOST_CLASSES:
            rank_zero_warn(
                f"Results of {self._num_classes:,} classes are not drawn: at most {MOST_CLASSES:,} are possible. "
                "enable.class_results = false leaves them out without this warning."
            )

    def counts(self, trainer: Trainer) -> bool:
        """Return whether this is a validation of not too many classes, whatever the logger."""
        return not trainer.sanity_checking and self._num_classes <= MOST_CLASSES

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        super().on_validation_epoch_start(trainer, pl_module)
        if self.counts(trainer):
            none = torch.zeros(0, dtype=torch.int64, device=pl_module.device)  # in case there are no batches
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
        """Keep predicted and true classes of a batch, on its device; outputs are logits (B, C, ...)."""
        if self.counts(trainer):
            self._predictions.append(outputs.argmax(1))
            self._targets.append(batch[1])

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start again, as in validation."""
        self.on_validation_epoch_start(trainer, pl_module)

    on_test_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the worst classes of an evaluation."""
        if trainer.state.fn != TrainerFn.FITTING and self.counts(trainer) and not is_trial(trainer):
            matrix = self._matrix(trainer, pl_module)
            self._worst = worst_classes(matrix, metadata_of(pl_module).class_names, PRINTED)

    on_test_end = on_validation_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the worst classes below the metrics."""
        if self._worst and trainer.is_global_zero:
            print(f"Recognised least:\n{self._worst}", flush=True)
        self._worst = ""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the last validation, unless it is drawn already, and write its table."""
        super().on_train_end(trainer, pl_module)
        if not self._predictions or is_trial(trainer):
            return
        results = class_results(self._matrix(trainer, pl_module), metadata_of(pl_module).class_names)
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            self._table = folder / FILE_NAME
            write_results(self._table, results)
            log_text(trainer, "val/class_results", results_table(results))

    def summary_lines(self) -> list[tuple[str, str]]:
        """Return this callback's lines of :class:`RunSummary`."""
        return [] if self._table is None else [("results of classes", str(self._table))]

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw on the first process."""
        if not takes_pictures(trainer):
            return
        matrix = self._matrix(trainer, pl_module)
        if trainer.is_global_zero:
            names = metadata_of(pl_module).class_names
            log_picture(trainer, "val/confusion", draw_confusion(matrix, names))
            log_picture(trainer, "val/class_accuracy", draw_accuracies(class_accuracies(matrix), names))
            log_text(trainer, "val/worst_classes", worst_classes(matrix, names))

    def _matrix(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """Return the confusion matrix (C, C), true class by prediction, summed over processes."""
        predictions, targets = torch.cat(self._predictions).cpu(), torch.cat(self._targets).cpu()
        own = multiclass_confusion_matrix(predictions, targets, self._num_classes, validate_args=False)
        matrix: Tensor = trainer.strategy.reduce(own.to(pl_module.device), reduce_op="sum")
        return matrix.cpu()


def write_results(path: Path, results: Sequence[ClassResult]) -> None:
    """Write results of classes as CSV, whole or not at all; shares have four decimals, or "nan" without images."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([field.name for field in fields(ClassResult)])
    for result in results:
        rows.writerow(
            [f"{value:.4f}" if isinstance(value, float) else safe_cell(str(value)) for value in astuple(result)]
        )
    write_text(path, text.getvalue())
