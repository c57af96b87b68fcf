"""Predictions as a table: one CSV file for a folder of images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.classification import ImageClassification


class PredictionsFile(Callback):
    """Write the best classes of every image to a CSV file, sorted by path.

    Columns: path, then class_1, probability_1, class_2, ... with the best class first. Hooks: ``on_predict_start``
    opens a part file per process, ``on_predict_batch_end`` appends to it, ``on_predict_end`` joins the parts on the
    first process; the file appears under its name only when it is complete.

    Args:
        path: The file to write; an existing one is replaced.
    """

    def __init__(self, path: str = "predictions.csv") -> None:
        self.path = path
        self._part: IO[str] | None = None
        self._names: tuple[str, ...] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the file can be written before anything is computed.

        Raises:
            OSError: When its folder cannot be made or written.
        """
        if stage == "predict":
            folder = Path(self.path).absolute().parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with self._part_path(trainer.global_rank).open("w"):
                    pass
            except OSError as error:
                raise OSError(
                    f"predictions.path = {self.path!r} cannot be written ({error}): choose another folder."
                ) from error

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        if not isinstance(pl_module, ImageClassification):
            raise TypeError(f"PredictionsFile takes an ImageClassification, not a {type(pl_module).__name__}.")
        self._names = pl_module.metadata.class_names if pl_module.metadata else None
        self._part = self._part_path(trainer.global_rank).open("w", newline="", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append a batch of predictions."""
        assert self._part is not None
        rows = csv.writer(self._part)
        for path, probabilities, indices in zip(
            outputs["paths"], outputs["probabilities"].tolist(), outputs["indices"].tolist(), strict=True
        ):
            best = zip(indices, probabilities, strict=True)
            rows.writerow([path, *(cell for index, p in best for cell in (self._name(index), f"{p:.6f}"))])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the parts of all processes."""
        assert self._part is not None
        self._part.close()
        trainer.strategy.barrier("predictions")
        if trainer.is_global_zero:
            count = join_parts([self._part_path(rank) for rank in range(trainer.world_size)], Path(self.path))
            rank_zero_info(f"Predictions of {count} images: {self.path}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no half file behind."""
        if self._part is not None:
            self._part.close()
            self._part_path(trainer.global_rank).unlink(missing_ok=True)

    def _part_path(self, rank: int) -> Path:
        return Path(f"{self.path}.part{rank}")

    def _name(self, index: int) -> str:
        return str(index) if self._names is None else self._names[index]


def join_parts(parts: list[Path], path: Path) -> int:
    """Join headerless CSV files into one with a header, sorted by its first column, and remove them.

    Samplers may repeat images to make processes even: each path is written once.

    Args:
        parts: The files to join.
        path: The file to write, which appears only when it is complete.

    Returns:
        The number of rows.
    """
    rows: dict[str, list[str]] = {}
    for part in parts:
        with part.open(newline="", encoding="utf-8") as file:
            rows.update({row[0]: row for row in csv.reader(file)})
    classes = (max((len(row) for row in rows.values()), default=1) - 1) // 2
    header = ["path", *(f"{column}_{rank + 1}" for rank in range(classes) for column in ("class", "probability"))]
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *(rows[key] for key in sorted(rows))])
    unfinished.replace(path)
    for part in parts:
        part.unlink()
    return len(rows)
