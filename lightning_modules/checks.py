"""Checks that network, data and checkpoint fit together, before any long work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import Trainer

from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata

_REGULARISATION_FIELDS = ("drop_path_rate", "drop_rate")
"""Fields of a network's config that may differ from the checkpoint's, since the weights do not depend on them."""


@runtime_checkable
class ClassificationData(Protocol):
    """What ImageClassification needs of a datamodule.

    Attributes:
        num_classes: Classes of the targets.
        batch_size: Images per batch and process.
    """

    num_classes: int
    batch_size: int

    def metadata(self) -> ModelMetadata:
        """Return image size, normalisation and class names."""


def data_of(trainer: Trainer) -> ClassificationData:
    """Return a trainer's datamodule.

    Raises:
        TypeError: When it lacks what ImageClassification needs.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ClassificationData):
        raise TypeError(
            f"The datamodule is {type(data).__name__}: ImageClassification needs one with num_classes, batch_size "
            "and metadata(), such as datamodules.ImageNetDataModule."
        )
    return data


def images_per_batch(trainer: Trainer) -> int:
    """Return the images of a batch, over all processes."""
    return data_of(trainer).batch_size * trainer.world_size


def images_per_step(trainer: Trainer) -> int:
    """Return the images of an optimiser step, over all processes."""
    return images_per_batch(trainer) * trainer.accumulate_grad_batches


@contextmanager
def enough_for_norms(images: int) -> Iterator[None]:
    """Replace torch's error about a BatchNorm with one value per channel, as for one image's mean.

    Args:
        images: Number of images of the batch.

    Raises:
        UserError: Instead of torch's error.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"data.batch_size = {images} must be 2 or more: a BatchNorm of this network follows a pooled map and "
            "cannot be trained on one image."
        ) from error


def class_counts(data: ClassificationData) -> list[int]:
    """Return the number of training images of each class.

    Raises:
        UserError: When the datamodule does not know it.
    """
    counts = getattr(data, "class_counts", None)
    if counts is None:
        raise UserError(
            f"model.class_weight_power needs a datamodule with class_counts, which {type(data).__name__} lacks: set it "
            "to 0."
        )
    return list(counts)


def check_data(network: MobileMambaConfig, known: int, num_classes: int, metadata: ModelMetadata) -> None:
    """Check that a network fits the images and classes of the data.

    Args:
        network: Its architecture.
        known: Number of classes of the network.
        num_classes: Number of classes of the data.
        metadata: Preprocessing of the data.

    Raises:
        UserError: Names both values and what to change.
    """
    if known != num_classes:
        raise UserError(
            f"model.network.num_classes = {known}, but the data have {num_classes} classes: set "
            f"data.num_classes, to which the model's is linked, to {num_classes}."
        )
    if min(metadata.image_size) < network.min_image_size:
        raise UserError(
            f"The data's image size {metadata.image_size[0]}x{metadata.image_size[1]} is too small: "
            f"{network.num_stages} stages after a stem of stride {network.stem_stride} need at least "
            f"{network.min_image_size} pixels: increase data.image_size, or reduce model.network.stem_stride."
        )
    if len(metadata.mean) != network.in_chans:
        raise UserError(
            f"model.network.in_chans = {network.in_chans}, but the data's images have {len(metadata.mean)} channels: "
            "set model.network.in_chans to that."
        )


def check_checkpoint(
    checkpoint: Mapping[str, Any], network: MobileMambaConfig, head: Mapping[str, Any]
) -> ModelMetadata:
    """Check that a checkpoint is of this project and this architecture.

    Args:
        checkpoint: Content of a training checkpoint.
        network: The architecture to load into.
        head: Description of the network's head, by option; empty for a classifier.

    Returns:
        Preprocessing and classes of the data that the weights were trained on.

    Raises:
        UserError: Names every field that differs, with both values.
    """
    if "mobilemamba" not in checkpoint:
        raise UserError(f"This is not a training checkpoint of this project: it holds {sorted(checkpoint)[:10]}.")
    saved = checkpoint["mobilemamba"]["config"]
    unknown = sorted(saved.keys() - {field.name for field in fields(MobileMambaConfig)})
    if unknown:
        raise UserError(f"The checkpoint's network has fields that this version does not know: {unknown}.")
    of_file, of_model = asdict(MobileMambaConfig(**saved)), asdict(network)
    differing = [
        f"{name}: checkpoint {of_file[name]}, model {of_model[name]}"
        for name in of_model
        if of_file[name] != of_model[name] and name not in _REGULARISATION_FIELDS
    ]
    of_head = checkpoint["mobilemamba"].get("head", {})
    differing += [
        f"{name}: checkpoint {of_head.get(name)}, model {head.get(name)}"
        for name in sorted(of_head.keys() | head.keys())
        if of_head.get(name) != head.get(name)
    ]
    if differing:
        raise UserError(
            f"The checkpoint's network differs from model.network: {'; '.join(differing)}. Use the config that the "
            "checkpoint was trained with."
        )
    return ModelMetadata.from_dict(checkpoint["mobilemamba"]["metadata"])
