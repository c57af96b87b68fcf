"""Images on disk that an int8 file is calibrated with and judged on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from mobilemamba.export.errors import ExportError
from mobilemamba.metadata import ModelMetadata
from mobilemamba.preprocessing import evaluation_transform

FEWEST_IMAGES = 32
"""Images below which neither ranges of values nor shares of images mean anything."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files, with their classes where they are known.

    Args:
        files: The files.
        targets: Index of the network's output for each file; None without labels.
    """

    files: tuple[Path, ...]
    targets: tuple[int, ...] | None = None

    def spread(self, count: int) -> ImageFiles:
        """Choose images at even distances, so that sorted folders of classes all have their share.

        Args:
            count: Images wanted; all are taken where there are fewer.
        """
        count, total = min(count, len(self.files)), len(self.files)
        return self._at([index * total // count for index in range(count)])

    def without(self, others: ImageFiles) -> ImageFiles:
        """Return the images that are not among others."""
        taken = set(others.files)
        return self._at([index for index, file in enumerate(self.files) if file not in taken])

    def _at(self, indices: Sequence[int]) -> ImageFiles:
        targets = None if self.targets is None else tuple(self.targets[index] for index in indices)
        return ImageFiles(tuple(self.files[index] for index in indices), targets)


def find_images(folder: Path, option: str) -> ImageFiles:
    """Return the images in a folder, in any depth, sorted.

    Args:
        folder: Folder.
        option: What the user named it by, for errors.

    Raises:
        ExportError: When it is no folder or holds no images.
    """
    if not folder.is_dir():
        raise ExportError(f"{option} {folder} is no folder: name one with images.")
    files = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS))
    if not files:
        raise ExportError(f"{option} {folder} holds no images: expected files ending in {', '.join(IMG_EXTENSIONS)}.")
    return ImageFiles(files)


def find_labelled_images(
    folder: Path, option: str, num_classes: int, class_names: Sequence[str] | None = None
) -> ImageFiles:
    """Return the images in a folder that has one folder for each class.

    Folders named as the network's classes belong to these; otherwise their sorted names are in the outputs' order.

    Args:
        folder: Folder.
        option: What the user named it by, for errors.
        num_classes: Outputs of the network.
        class_names: Names of the outputs, if known.

    Raises:
        ExportError: When the folders do not fit the network's classes, or hold no images.
    """
    images = find_images(folder, option)
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if len(names) != num_classes:
        raise ExportError(
            f"{option} {folder} has {len(names)} folders, the network {num_classes} classes: name a folder with one "
            "folder of images for each class."
        )
    order = list(class_names) if class_names is not None and sorted(class_names) == names else names
    stray = next((file for file in images.files if file.parent == folder), None)
    if stray is not None:
        raise ExportError(f"Image {stray} lies in no class's folder: move or remove it.")
    targets = tuple(order.index(file.relative_to(folder).parts[0]) for file in images.files)
    return ImageFiles(images.files, targets)


def read_batches(images: ImageFiles, metadata: ModelMetadata, batch_size: int) -> Iterator[Tensor]:
    """Read images as in evaluation.

    Args:
        images: What to read.
        metadata: Size and preprocessing.
        batch_size: Images per batch; the last one may have fewer.

    Yields:
        Batches (B, 3, H, W).

    Raises:
        ExportError: When a file cannot be read.
    """
    transform = evaluation_transform(metadata)
    for start in range(0, len(images.files), batch_size):
        batch = []
        for file in images.files[start : start + batch_size]:
            try:
                with Image.open(file) as image:
                    batch.append(transform(image.convert("RGB")))
            except OSError as error:
                raise ExportError(f"Image {file} cannot be read ({error}): remove or replace it.") from error
        yield torch.stack(batch)
