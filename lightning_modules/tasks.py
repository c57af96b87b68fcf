"""The tasks of the ``lightning`` command: the module of each, its data, linked options and callbacks.

A config has ``task: segmentation``, and the options below ``model`` are those of that module.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import yaml

from datamodules import ClassificationDataModule
from datamodules.dense import DenseDataModule
from datamodules.loaders import LoaderDataModule
from lightning_modules.classification import ImageClassification
from lightning_modules.configs import find_config
from lightning_modules.detection import ObjectDetection
from lightning_modules.segmentation import SemanticSegmentation
from lightning_modules.student import StudentModule
from mobilemamba.errors import UserError, require

DEFAULT = "classification"

IMAGE_LINKS = {"data.num_classes": "model.num_classes", "data.image_size": "model.image_size"}


@dataclass(frozen=True)
class TaskParts:
    """The parts of a task.

    Args:
        module: Its LightningModule.
        data: Base class of its data.
        links: Options of the model by the options of the data that set them.
        left_out: Sections of callbacks that do not support this task.
    """

    module: type[StudentModule]
    data: type[LoaderDataModule]
    links: Mapping[str, str]
    left_out: tuple[str, ...] = ()


OF_CLASSIFIERS = ("sample_images", "class_results", "receptive_field", "scan_decay", "predictions", "scalar_layout")
"""Callbacks that support only classifiers."""

OF_DENSE_TASKS = ("dense_samples", "dense_predictions")
"""Callbacks that support only the other tasks."""

TASKS = {
    DEFAULT: TaskParts(
        ImageClassification,
        ClassificationDataModule,
        {"data.num_classes": "model.network.num_classes", "data.image_size": "model.image_size"},
        OF_DENSE_TASKS,
    ),
    "segmentation": TaskParts(SemanticSegmentation, DenseDataModule, IMAGE_LINKS, OF_CLASSIFIERS),
    "detection": TaskParts(ObjectDetection, DenseDataModule, IMAGE_LINKS, (*OF_CLASSIFIERS, "complexity")),
}


def task_of_arguments(arguments: Sequence[str] | None) -> str:
    """Return the task that a command line or its configs name; the last one counts.

    Args:
        arguments: As on the command line; None takes those of the process.

    Raises:
        UserError: When there is no such task.
    """
    task = DEFAULT
    words = list(sys.argv[1:] if arguments is None else arguments)
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        option, _, value = word.partition("=")
        value = value or following
        if option == "--task":
            task = value
        elif option == "--config":
            task = _task_of_config(value) or task
    require(task in TASKS, "task", task, f"one of {', '.join(TASKS)}")
    return task


def _task_of_config(name: str) -> str | None:
    """Return the task that a config names; None if it names none or cannot be read, which the parser will report."""
    try:
        content = yaml.safe_load(Path(find_config(name)).read_text(encoding="utf-8"))
    except (UserError, OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    return content.get("task") if isinstance(content, dict) else None
