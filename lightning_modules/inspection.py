"""Read access of callbacks to a run: its networks, images, files and other callbacks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Protocol, TypeVar, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.metadata import ModelMetadata

AnyCallback = TypeVar("AnyCallback", bound=Callback)


class Task(Protocol):
    """The attributes that callbacks use of a LightningModule such as ImageClassification.

    Attributes:
        headline: Metric by which weights are compared; higher is better.
        student: The network with raw weights.
        ema_student: The network with averaged weights, if any.
        teacher: The teacher in fit, if any.
        metadata: Preprocessing and classes of the data; known after setup.
    """

    headline: str
    student: MobileMamba
    ema_student: nn.Module | None
    teacher: nn.Module | None
    metadata: ModelMetadata | None

    @property
    def num_classes(self) -> int:
        """Number of classes of the network."""

    def set_unregistered(self, name: str, network: nn.Module | None) -> None:
        """Set an attribute to a network without making it a submodule."""


def task_of(pl_module: LightningModule) -> Task:
    """Return a module with the type Task.

    Raises:
        TypeError: When it lacks an attribute of Task.
    """
    # Not isinstance(): from Python 3.12 on, a protocol does not see submodules, which torch finds by __getattr__.
    if not all(hasattr(pl_module, name) for name in (*Task.__annotations__, "num_classes", "set_unregistered")):
        raise TypeError(f"The module must be a task such as ImageClassification, not a {type(pl_module).__name__}.")
    return cast(Task, pl_module)


def metadata_of(pl_module: LightningModule) -> ModelMetadata:
    """Return preprocessing and classes of a task's data; to be called after its setup."""
    metadata = task_of(pl_module).metadata
    if metadata is None:
        raise RuntimeError("The metadata of the data are not known before setup.")
    return metadata


def copied_network(pl_module: LightningModule) -> nn.Module:
    """Return a copy of the network in float32 and eval mode, not compiled, with averaged weights if there are any."""
    task = task_of(pl_module)
    network = task.student if task.ema_student is None else task.ema_student
    with torch.inference_mode(False):  # validation runs in inference mode, whose tensors can have no gradients
        return copy.deepcopy(network).float().eval().requires_grad_(False)


def validation_images(trainer: Trainer, count: int) -> Tensor | None:
    """Return validation images, spread evenly over the data set, the same ones each time.

    They are read by index in this process: a loader's iterator would draw a random seed and start workers.

    Args:
        trainer: A trainer with a datamodule whose validation data have a length.
        count: Largest number of images.

    Returns:
        Normalised images (B, C, H, W) on the CPU; None if there are no readable validation images.
    """
    datamodule = getattr(trainer, "datamodule", None)
    loader = None if datamodule is None else datamodule.val_dataloader()
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return None
    count = min(count, len(dataset))
    with isolate_rng(), torch.inference_mode(False):
        samples = [dataset[index * len(dataset) // count] for index in range(count)]
    readable = [sample[0] for sample in samples if sample is not None]
    return torch.stack(readable) if readable else None


def find_callback(trainer: Trainer, kind: type[AnyCallback]) -> AnyCallback | None:
    """Return the run's first callback of a class."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of the run's files; to be called on all processes."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def run_config(trainer: Trainer) -> Path | None:
    """Return the run's config.yaml, None if the command line did not write one; to be called on all processes."""
    path = run_folder(trainer) / "config.yaml"
    return path if path.is_file() else None


def is_trial(trainer: Trainer) -> bool:
    """Return whether this is a ``fast_dev_run``, which leaves no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
