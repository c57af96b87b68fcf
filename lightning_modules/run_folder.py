"""Where a run writes, whatever its logger: one folder for checkpoints, config, record, pictures and curves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_modules.folder_lock import locked
from mobilemamba.errors import UserError
from mobilemamba.files import UNFINISHED

PATIENCE = 15.0
"""Seconds in which the loader processes of a training process that was killed have ended."""

LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow", "none"]


@dataclass(frozen=True)
class Run:
    """Where a fit writes: folder/name/version_0, version_1, ... or folder/name/VERSION.

    Args:
        name: Name of the experiment.
        folder: Folder of all experiments.
        version: Name of this run's folder. Null: the next number.
        logger: Where curves and pictures go: tensorboard and csv are files in the run's folder, wandb and mlflow are
            packages to install, none keeps no curves. Pictures go to all but csv, which in a run that goes on keeps
            older parts as metrics_0.csv and so on. Not used with trainer.logger.
        resume: auto goes on with the newest version of that name, or the given one, from its newest whole checkpoint,
            and begins where there is none: the same command starts a run and goes on with it. Null: begin.
    """

    name: str = "mobilemamba"
    folder: str = "runs"
    version: str | None = None
    logger: LoggerName = "tensorboard"
    resume: Literal["auto"] | None = None

    def path(self) -> Path:
        """Return the folder of this run, which need not exist yet."""
        return Path(TensorBoardLogger(self.folder, self.name, self.version).log_dir)  # it finds the next number

    def newest(self) -> Run:
        """Return the run to go on with: the newest version of this name, where none is given and there are any."""
        folders = Path(self.folder, self.name).glob("version_*")
        numbers = [int(number) for path in folders if (number := path.name.removeprefix("version_")).isdecimal()]
        return replace(self, version=f"version_{max(numbers)}") if self.version is None and numbers else self

    def make_logger(self) -> Logger | bool:
        """Return a logger that writes into the run's folder, False for none.

        Raises:
            UserError: When its package is not installed.
        """
        path = self.path()
        try:
            match self.logger:
                case "tensorboard":
                    return _TensorBoardLogger(self.folder, self.name, path.name, default_hp_metric=False)
                case "csv":
                    _keep_older_curves(path / "metrics.csv")
                    return CSVLogger(self.folder, self.name, path.name)
                case "wandb":
                    return WandbLogger(name=f"{self.name}/{path.name}", project=self.name, save_dir=path)
                case "mlflow":
                    return MLFlowLogger(self.name, run_name=path.name, save_dir=str(path))
                case _:
                    return False
        except ModuleNotFoundError as error:
            raise UserError(
                f"run.logger = {self.logger!r} needs a package that is not installed: pip install {self.logger}, or "
                f"choose another logger. ({str(error).splitlines()[0]})"
            ) from error


class _TensorBoardLogger(TensorBoardLogger):
    """Lightning's, with the number of the epoch among the curves of training, not in front of all others."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(
            {"train/epoch" if name == "epoch" else name: value for name, value in metrics.items()}, step
        )


@contextmanager
def removed_where_refused(folder: Path, trainer: Trainer) -> Iterator[None]:
    """Remove a run's folder, where it was none before, after an error that came before the first step was done.

    Args:
        folder: The run's.
        trainer: Counts the steps.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except Exception:
        if missing and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another run has written beside it
                for path in missing[1:]:
                    path.rmdir()
        raise


@contextmanager
def held_alone(folder: Path, trainer: Trainer) -> Iterator[None]:
    """Keep other runs out of a run's folder, where it writes there at all; remove what a killed one left half written.

    Raises:
        UserError: When another run is in it.
    """
    writes = trainer.loggers or trainer.checkpoint_callbacks
    if trainer.fast_dev_run or not writes or not trainer.is_global_zero:  # type: ignore[attr-defined]
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "run.version or run.name", PATIENCE):
        for unfinished in folder.rglob(f".*{UNFINISHED}"):  # of a run that was killed; there is no other in it now
            shutil.rmtree(unfinished, ignore_errors=True)
        yield


def _keep_older_curves(file: Path) -> None:
    """Give the curves of a run that goes on another name: Lightning would delete them."""
    if file.is_file():
        parts = (file.with_name(f"{file.stem}_{number}{file.suffix}") for number in count())
        file.rename(next(part for part in parts if not part.exists()))


def run_of_checkpoint(path: Path) -> Run | None:
    """Return the run whose folder a checkpoint is in, None for a checkpoint elsewhere."""
    folder = path.absolute().parent.parent
    if path.parent.name != "checkpoints" or not (folder / "config.yaml").is_file():
        return None
    return Run(folder.parent.name, str(folder.parent.parent), folder.name)
