"""Data sets of single images to train on, to evaluate or to predict; unreadable ones are named and left out."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.image_files import Images, targets_of
from datamodules.sampling import Draw
from datamodules.seeding import seeded
from mobilemamba.errors import UserError
from mobilemamba.images import open_image, printable
from mobilemamba.metadata import ModelMetadata
from mobilemamba.preprocessing import Transform, evaluation_transform

LOGGER = logging.getLogger(__name__)


class ReadableImages(Dataset[Any]):
    """Images of a set that can be read.

    Which ones could not is one flag per image in memory that all loader processes share, so each is named and counted
    once.

    Args:
        images: Image sources, with class index or path.
        metadata: How images are opened.
        transform: Transform to a tensor.
        max_corrupt: Most unreadable images that are left out before it stops.
    """

    CONSEQUENCE: str
    """What is done without an unreadable image."""

    def __init__(
        self, images: Images[int | str], metadata: ModelMetadata, transform: Transform, max_corrupt: int
    ) -> None:
        self.images, self.metadata, self.transform, self.max_corrupt = images, metadata, transform, max_corrupt
        self._is_corrupt = torch.zeros(len(images), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def corrupt_count(self) -> int:
        """Unreadable images met so far, in any loader process."""
        return int(self._is_corrupt.sum())

    def read(self, index: int) -> tuple[Image.Image, int | str] | None:
        """Return an RGB image with its label, or None for an unreadable one.

        Raises:
            UserError: When more images are unreadable than may be left out, or their folder is gone.
        """
        source, label = self.images[index]
        if isinstance(source, Image.Image):
            return source, label
        try:
            return open_image(source, self.metadata), label
        except UserError as error:
            if not source.parent.is_dir():
                raise UserError(printable(f"Folder {source.parent} is gone: bring it back to go on.")) from error
            if not self._is_corrupt[index]:
                self._is_corrupt[index] = True
                count = self.corrupt_count
                if count > self.max_corrupt:
                    raise UserError(
                        f"{error} It is number {count}, and {self.max_corrupt} may be left out: check the disk and "
                        "the download, or see data.on_corrupt and data.max_corrupt."
                    ) from error
                LOGGER.warning("%s %s %d unreadable so far.", error, self.CONSEQUENCE, count)
            return None


class TrainingImages(ReadableImages):
    """Augmented images; a draw's seed alone decides its augmentation, whichever process loads it.

    It also decides which image of the same class takes the place of one that cannot be read.
    """

    CONSEQUENCE = "Other images of its class take its place."

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int | str]:
        """Return the image (3, H, W) and its class index."""
        _, image, label = self.readable(draw)
        with seeded(draw.seed):
            return self.transform(image), label

    def readable(self, draw: Draw, left_out: Collection[int] = frozenset()) -> tuple[int, Image.Image, int | str]:
        """Return a draw's image with its index and label, or another one of its class where it cannot be used.

        Args:
            draw: The image; its seed decides which takes its place.
            left_out: Images that are treated like unreadable ones.

        Raises:
            UserError: When no image of the class can be used.
        """
        sample = None if draw.image in left_out else self.read(draw.image)
        if sample is not None:
            return draw.image, *sample
        targets = targets_of(self.images)
        same = np.flatnonzero(targets == targets[draw.image])
        for index in np.random.default_rng(draw.seed).permutation(same).tolist():
            sample = None if self._is_corrupt[index] or index in left_out else self.read(index)
            if sample is not None:
                return index, *sample
        raise UserError(
            f"None of the {len(same)} training images of a class can be read, the warnings above name them, such as "
            f"{printable(str(self.images[draw.image][0]))}: check the disk and the download, or remove the class."
        )


class EvaluationImages(ReadableImages):
    """Images with class indices, or with their paths to predict; None where an image cannot be read.

    Args:
        images: Image sources, with class index or path.
        metadata: How images are opened and prepared.
        max_corrupt: Most unreadable images that are left out before it stops.
    """

    CONSEQUENCE = "It is left out, and results are of the other images alone."

    def __init__(self, images: Images[int | str], metadata: ModelMetadata, max_corrupt: int) -> None:
        super().__init__(images, metadata, evaluation_transform(metadata), max_corrupt)

    def __getitem__(self, index: int) -> tuple[Tensor, int | str] | None:
        """Return the image (3, H, W) with its class index or path."""
        sample = self.read(index)
        return None if sample is None else (self.transform(sample[0]), sample[1])


def collate_readable(samples: list[tuple[Tensor, Any] | None]) -> tuple[Tensor, Any]:
    """Stack the samples that could be read: images (B, C, H, W) with targets (B,), or with a list of paths.

    Raises:
        UserError: When none could be read.
    """
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        raise UserError(
            "No image of a whole batch can be read, the warnings above name them: replace or remove them, or use a "
            "larger data.batch_size."
        )
    images, labels = zip(*readable, strict=True)
    return torch.stack(images), list(labels) if isinstance(labels[0], str) else torch.tensor(labels)
