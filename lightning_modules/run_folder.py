"""A run's folder for checkpoints, config, record, pictures and curves, with any logger."""

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
"""Seconds to wait for the loader processes of a killed training process to end."""

LoggerName = Literal["tensorboard", "csv", "wandb", "mlflow", "none"]


@dataclass(frozen=True)
class Run:
    """Where a fit writes: folder/name/version_0, version_1, ... or folder/name/VERSION.

    Args:
        name: Name of the experiment.
        folder: Folder of all experiments.
        version: Name of this run's folder. Null: the next number.
        logger: Where curves and pictures go: tensorboard and csv write files in the run's folder, wandb and mlflow are
            packages to install, none keeps no curves. csv takes no pictures; a resumed run keeps older curves as
            metrics_0.csv and so on. Not used with trainer.logger.
        resume: auto resumes the newest version of that name, or the given one, from its newest undamaged checkpoint;
            if there is none, it starts a run. So the same command starts and resumes. Null: start a run.
    """

    name: str = "mobilemamba"
    folder: str = "runs"
    version: str | None = None
    logger: LoggerName = "tensorboard"
    resume: Literal["auto"] | None = None

    def path(self) -> Path:
        """Return the folder of this run; it may not exist yet."""
        return Path(TensorBoardLogger(self.folder, self.name, self.version).log_dir)  # it finds the next number

    def newest(self) -> Run:
        """Return the run to resume: the newest version of this name, if none is given and one exists."""
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
    """Lightning's logger, with the epoch logged as "train/epoch"."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(
            {"train/epoch" if name == "epoch" else name: value for name, value in metrics.items()}, step
        )


@contextmanager
def removed_where_refused(folder: Path, trainer: Trainer) -> Iterator[None]:
    """Remove a run's new folder after an error before the first step."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except Exception:
        if missing and trainer.global_step == 0 and trainer.is_global_zero:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another run may have written beside it
                for path in missing[1:]:
                    path.rmdir()
        raise


@contextmanager
def held_alone(folder: Path, trainer: Trainer) -> Iterator[None]:
    """Lock a run's folder, if the run writes files, and remove unfinished files of a killed run.

    Raises:
        UserError: When another run uses it.
    """
    writes = trainer.loggers or trainer.checkpoint_callbacks
    if trainer.fast_dev_run or not writes or not trainer.is_global_zero:  # type: ignore[attr-defined]
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "run.version or run.name", PATIENCE):
        for unfinished in folder.rglob(f".*{UNFINISHED}"):
            shutil.rmtree(unfinished, ignore_errors=True)
        yield


def _keep_older_curves(file: Path) -> None:
    """Rename the curves of a resumed run, which Lightning would delete."""
    if file.is_file():
        parts = (file.with_name(f"{file.stem}_{number}{file.suffix}") for number in count())
        file.rename(next(part for part in parts if not part.exists()))


def run_of_checkpoint(path: Path) -> Run | None:
    """Return the run whose folder a checkpoint is in, None for a checkpoint elsewhere."""
    folder = path.absolute().parent.parent
    if path.parent.name != "checkpoints" or not (folder / "config.yaml").is_file():
        return None
    return Run(folder.parent.name, str(folder.parent.parent), folder.name)
