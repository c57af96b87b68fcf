"""Quiet trainers for tests, and what their runs have written into TensorBoard logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """Build a one-process trainer whose files go to a folder; without a log."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": folder,
    }
    return Trainer(**(quiet | options))


def logged_trainer(folder: Path, version: int = 0, **options: Any) -> Trainer:
    """Build a trainer that logs into ``folder/run/version_VERSION``."""
    logger = TensorBoardLogger(folder, name="run", version=version, default_hp_metric=False)
    return quiet_trainer(folder, logger=logger, **options)


def events(folder: Path, version: int = 0) -> EventAccumulator:
    keep_all = {"images": 0, "tensors": 0, "histograms": 0, "scalars": 0}
    return EventAccumulator(str(folder / "run" / f"version_{version}"), size_guidance=keep_all).Reload()


def picture_steps(log: EventAccumulator) -> dict[str, list[int]]:
    return {tag: [image.step for image in log.Images(tag)] for tag in log.Tags()["images"]}


def text(log: EventAccumulator, tag: str) -> str:
    return log.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


def run_folder(folder: Path) -> Path:
    return folder / "run" / "version_0"


def recorded(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run_folder(folder) / "record.json").read_text())
    return record


class Watch(Callback):
    """Keeps the record as it is after every validation, and the losses of all steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[dict[str, Any]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.records.append(recorded(self.folder))
