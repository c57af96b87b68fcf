"""Images on disk that an int8 file is calibrated with and judged on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mobilemamba.errors import UserError
from mobilemamba.export.int8.options import FEWEST_IMAGES, Int8Options
from mobilemamba.images import class_folders, evenly_spaced, find_images, open_image
from mobilemamba.metadata import ModelMetadata
from mobilemamba.preprocessing import evaluation_transform


@dataclass(frozen=True)
class LabelledImages:
    """Image files, with their classes where they are known.

    Args:
        files: The files.
        targets: Index of the network's output for each file; None without labels.
    """

    files: tuple[Path, ...]
    targets: tuple[int, ...] | None = None

    def accuracy(self, logits: Tensor) -> float | None:
        """Return the share of images that logits, (images, num_classes), put in their class; None without labels."""
        if self.targets is None:
            return None
        return (logits.argmax(1) == torch.tensor(self.targets)).double().mean().item()


def choose_images(
    options: Int8Options, num_classes: int, class_names: Sequence[str] | None
) -> tuple[LabelledImages, LabelledImages]:
    """Return images to calibrate with and other images to compare on, both evenly spaced over sorted folders.

    Args:
        options: Folders and numbers of images.
        num_classes: Outputs of the network.
        class_names: Names of the outputs, if known.

    Raises:
        UserError: When a folder does not fit, an image is in both, or there are too few.
    """
    images = find_images(options.calibration, "--calibration")
    if options.validation is None:
        chosen = evenly_spaced(images, min(len(images) // 2, options.calibration_images))
        taken = set(chosen)
        others = evenly_spaced([file for file in images if file not in taken], options.compared_images)
        compared = LabelledImages(tuple(others))
        hint = f", so {2 * FEWEST_IMAGES} in --calibration {options.calibration} without --validation"
    else:
        labelled = find_labelled_images(options.validation, num_classes, class_names)
        chosen = evenly_spaced(images, options.calibration_images)
        both = {file.resolve() for file in chosen} & {file.resolve() for file, _ in labelled}
        if both:
            raise UserError(
                f"Image {min(both)} is in --calibration and in --validation: accuracy must be that on other images."
            )
        compared = LabelledImages(*zip(*evenly_spaced(labelled, options.compared_images), strict=True))
        hint = ""
    for purpose, count in (("calibrate with", len(chosen)), ("compare on", len(compared.files))):
        if count < FEWEST_IMAGES:
            raise UserError(f"{count} images to {purpose} are too few: at least {FEWEST_IMAGES} are needed{hint}.")
    return LabelledImages(tuple(chosen)), compared


def find_labelled_images(
    folder: Path, num_classes: int, class_names: Sequence[str] | None = None
) -> list[tuple[Path, int]]:
    """Return the images in a folder that has one folder for each class, with the indices of their classes.

    Folders named as the network's classes belong to these; otherwise their sorted names are in the outputs' order.

    Args:
        folder: What --validation names.
        num_classes: Outputs of the network.
        class_names: Names of the outputs, if known.

    Raises:
        UserError: When the folders do not fit the network's classes, or hold no images.
    """
    files = find_images(folder, "--validation")
    names = class_folders(folder)
    if len(names) != num_classes:
        raise UserError(
            f"--validation {folder} has {len(names)} folders, the network {num_classes} classes: name a folder with "
            f"one folder of images for each class. The first folders are {names[:5]}."
        )
    order = list(class_names) if class_names is not None and sorted(class_names) == names else names
    stray = next((file for file in files if file.parent == folder), None)
    if stray is not None:
        raise UserError(f"Image {stray} lies in no class's folder: move or remove it.")
    return [(file, order.index(file.relative_to(folder).parts[0])) for file in files]


def read_batches(files: Sequence[Path], metadata: ModelMetadata, batch_size: int) -> Iterator[Tensor]:
    """Read images as in evaluation.

    Args:
        files: What to read.
        metadata: Size and preprocessing.
        batch_size: Images per batch; the last one may have fewer.

    Yields:
        Batches (B, 3, H, W).

    Raises:
        UserError: When a file cannot be read.
    """
    transform = evaluation_transform(metadata)
    for start in range(0, len(files), batch_size):
        yield torch.stack([transform(open_image(file, metadata)) for file in files[start : start + batch_size]])
