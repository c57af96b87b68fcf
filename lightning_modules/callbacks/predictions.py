"""Predictions as a table: one CSV file for a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.distributed import gathered
from lightning_modules.inspection import metadata_of
from mobilemamba.errors import UserError
from mobilemamba.files import check_writable
from mobilemamba.inference.predict import Prediction, write_predictions

Rows = dict[str, list[tuple[int, float]]]
"""Classes and probabilities, best first, by an image's path."""


class PredictionsFile(Callback):
    """Write the best classes of every image to a CSV file, sorted by path.

    Columns: path, then class_1, probability_1, class_2, ... with the best class first. Hooks: ``setup`` checks that the
    file can be written, ``on_predict_batch_end`` collects, ``on_predict_end`` writes on the first process.

    Args:
        path: The file to write; an existing one is replaced.
    """

    def __init__(self, path: str = "runs/predictions.csv") -> None:
        self.path = path
        self._rows: Rows = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the file can be written before anything is computed.

        Raises:
            UserError: When it cannot.
        """
        if stage != "predict":
            return
        self._rows = {}
        try:
            check_writable(Path(self.path).parent)
        except UserError as error:
            raise UserError(f"predictions.path = {self.path!r} cannot be written: {error}") from error
        if Path(self.path).is_dir():
            raise UserError(f"predictions.path = {self.path!r} must be a file: it is a folder.")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions of a batch."""
        columns = outputs["paths"], outputs["indices"].tolist(), outputs["probabilities"].tolist()
        for path, indices, probabilities in zip(*columns, strict=True):
            self._rows[path] = list(zip(indices, probabilities, strict=True))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the predictions of all processes; samplers may repeat images, and each path is written once."""
        rows = {path: best for part in gathered(self._rows) for path, best in part.items()}
        if trainer.is_global_zero:
            names = metadata_of(pl_module).class_names
            predictions = []
            for path in sorted(rows):
                indices, probabilities = zip(*rows[path], strict=True)
                classes = tuple(str(index) if names is None else names[index] for index in indices)
                predictions.append(Prediction(path, classes, probabilities))
            write_predictions(predictions, Path(self.path))
            rank_zero_info(f"Predictions of {len(rows)} images: {self.path}")
