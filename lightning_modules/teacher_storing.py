"""Runs a teacher on views of all training images in one of several processes, and stores its answers."""

from __future__ import annotations

import hashlib
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from torch import nn

from datamodules.classification import ClassificationDataModule
from datamodules.datasets import TrainingImages
from datamodules.likeliest_classes import make_rows, set_rows
from datamodules.seeded_views import ViewToStore, collate_views
from datamodules.stored_teacher import StoredTeacher
from lightning_modules.cli import message_for_users
from lightning_modules.resolve import FitParser
from lightning_modules.teacher import Teacher, TeacherConfig, build_teacher
from mobilemamba.checksums import file_digest
from mobilemamba.errors import UserError


@dataclass(frozen=True)
class Job:
    """Options of a store.

    Args:
        arguments: Arguments of ``lightning fit`` with data, augmentation, teacher and precision.
        views: Views of each image.
        top_k: Number of classes to store of each answer.
        output: Folder of the store; None for one below runs/ with the run's name.
    """

    arguments: Sequence[str]
    views: int
    top_k: int
    output: Path | None = None


class TeacherStoring:
    """Data, teacher and store of a job, on one device.

    Args:
        job: Options of the store.
        device: Index of this process's device.

    Raises:
        UserError: When the options are wrong, the teacher does not fit, or the folder has a store of something else.
        ConnectionError: When published weights cannot be fetched.
    """

    def __init__(self, job: Job, device: int) -> None:
        options, parts = _build(job.arguments)
        if not isinstance(parts.data, ClassificationDataModule) or parts.model.teacher_config is None:
            raise UserError("model.teacher must be set: give a config of a distilled classifier.")
        self.data, config = parts.data, cast(TeacherConfig, parts.model.teacher_config)
        self._fabric = _fabric(options.trainer, device)
        self.data.setup("fit")
        images, metadata = self.data.datasets["train"], self.data.metadata()
        teacher = build_teacher(config, self.data.num_classes, metadata.mean, metadata.std)
        fingerprint: dict[str, dict[str, Any]] = self.data.fingerprint()
        fingerprint["augmentation"]["seed"] = self.data.seed
        fingerprint["teacher"] = teacher_fingerprint(config, teacher)
        folder = job.output or Path("runs", "stored_teachers", options.run.name)
        self.store = StoredTeacher.create(folder, fingerprint, len(images), self.data.num_classes, job.top_k)
        self._images = cast(TrainingImages, images)
        self._format = torch.channels_last if options.model.channels_last else torch.preserve_format
        self._teacher = teacher.to(self._fabric.device).to(memory_format=self._format)

    def run(self, advance: Callable[[int], None]) -> None:
        """Store the missing views that no other process has locked.

        Args:
            advance: Called with the number of newly finished images.
        """
        for view in range(self.store.views):
            with self.store.claimed(view) as is_mine:
                if is_mine:
                    self._store(view, advance)

    def _store(self, view: int, advance: Callable[[int], None]) -> None:
        rows = make_rows(self.store.row_type, len(self._images))
        dataset = ViewToStore(self._images, self.store.seed, view)
        precision: AbstractContextManager[Any] = self._fabric.autocast()
        with torch.inference_mode(), precision:
            for batch in self.data.loader(dataset, batch_size=self.data.batch_size, collate_fn=collate_views):
                if batch is None:
                    continue
                moved = batch._replace(images=batch.images.to(self._fabric.device, non_blocking=True))
                images, indices = self.data.finish(moved)
                set_rows(rows, indices.numpy(), self._teacher(images.to(memory_format=self._format)))
                advance(len(images))
        self.store.add(view, rows)


def teacher_fingerprint(config: TeacherConfig, teacher: Teacher) -> dict[str, Any]:
    """Describe a teacher: its weights, and how its inputs and outputs relate to the student's."""
    return {
        "name": config.name,
        "weights": weights_digest(teacher.network),
        "checkpoint": None if config.checkpoint is None else file_digest(Path(config.checkpoint)),
        "class_indices": teacher.class_indices,
        "image_size": list(teacher.expects.image_size),
        "mean": list(teacher.expects.mean),
        "std": list(teacher.expects.std),
    }


def weights_digest(network: nn.Module) -> str:
    """Return a digest of all parameters and buffers that a network saves, with their names."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _build(arguments: Sequence[str]) -> tuple[Any, Any]:
    # The student is built too, but without its starting weights.
    given = [*arguments, "--model.weights=null"]
    try:
        options, parts = FitParser().build(given)
    except ArgumentError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        message = message_for_users(error)
        if message is None:
            raise
        raise UserError(message) from error
    return options["fit"], parts


def _fabric(trainer: Any, device: int) -> Fabric:
    """Return a Fabric with the device and precision of the trainer's options.

    Raises:
        UserError: When they cannot be used here.
    """
    on_cpu = trainer.accelerator == "cpu" or not torch.accelerator.is_available()
    precision: Any = trainer.precision or "32-true"
    if on_cpu and precision == "16-mixed":  # Fabric would take bfloat16
        precision = "32-true"
    try:
        return Fabric(accelerator=trainer.accelerator, devices=1 if on_cpu else [device], precision=precision)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"--devices or trainer's options cannot be used here: {error}") from error
