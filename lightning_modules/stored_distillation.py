"""Training with a stored teacher: checks of the store, and its answers as logits for the loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.distillation import DistillationDataModule
from datamodules.stored_teacher import StoredTeacher
from lightning_modules.checks import ClassificationData
from lightning_modules.teacher import RECIPE_TEACHER, TeacherConfig
from mobilemamba.checksums import file_digest
from mobilemamba.errors import UserError, require


def learn_from_store(config: TeacherConfig, data: ClassificationData) -> None:
    """Check that a stored teacher is complete and fits the data, and let the data use its views.

    Args:
        config: Names the store.
        data: Data that are set up for fit.

    Raises:
        UserError: When the store is damaged or unfinished, or classes, data, augmentation or teacher differ.
    """
    assert config.stored is not None
    if not isinstance(data, DistillationDataModule):
        raise UserError(f"model.teacher.stored must be null: {type(data).__name__} has no reproducible views.")
    store = StoredTeacher(Path(config.stored).expanduser())
    require(
        store.classes == data.num_classes,
        "data.num_classes",
        data.num_classes,
        f"{store.classes}, as of the stored teacher in {store.folder}, or another one stored",
    )
    store.check({**data.fingerprint(), "teacher": teacher_of_config(config)})
    store.check_whole()
    data.use_stored_teacher(store, config.mixing)
    off = "" if config.mixing else " Mixup and CutMix are off, as model.teacher.mixing is false."
    rank_zero_info(
        f"The teacher is read from {store.folder}: {store.views} views of each image, the "
        f"{store.manifest['top_k']} likeliest of {store.classes} classes.{off} No teacher is loaded, so validation has "
        "neither val/top1_teacher nor val/teacher_agreement."
    )


def missing_store(config: TeacherConfig | None) -> str:
    """Return an error message if a stored teacher is missing or unfinished, otherwise ""; its files are not read."""
    if config is None or config.stored is None:
        return ""
    try:
        StoredTeacher(Path(config.stored).expanduser()).check_finished()
    except UserError as error:
        return str(error)
    return ""


def teacher_of_config(config: TeacherConfig) -> dict[str, Any]:
    """Return the fingerprint entries of a teacher that a config states explicitly."""
    given: dict[str, Any] = {
        "name": None if config.name == RECIPE_TEACHER else config.name,
        "class_indices": config.class_indices,
        "image_size": None if config.image_size is None else [config.image_size, config.image_size],
        "mean": None if config.mean is None else list(config.mean),
        "std": None if config.std is None else list(config.std),
    }
    if config.checkpoint is not None and Path(config.checkpoint).is_file():  # it is not needed and may be missing
        given["checkpoint"] = file_digest(Path(config.checkpoint))
    return {name: value for name, value in given.items() if value is not None}


def as_logits(probabilities: Tensor) -> Tensor:
    """Return logits whose softmax gives these probabilities (B, num_classes); probabilities of 0 stay finite."""
    return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
