"""Data sets of single images for training, evaluation and prediction; unreadable images are skipped with a warning."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from datamodules.image_files import Images, Source, targets_of
from datamodules.sampling import Draw
from datamodules.seeding import seeded
from datamodules.transforms import TrainingTransform
from mobilemamba.errors import UserError
from mobilemamba.images import open_image, printable, read_pixels
from mobilemamba.metadata import ModelMetadata
from mobilemamba.preprocessing import evaluation_transform

LOGGER = logging.getLogger(__name__)


class ReadableImages(Dataset[Any]):
    """Images of a data set, without those that cannot be read.

    One flag per image, in memory that all loader processes share, marks unreadable images, so that each is reported and
    counted once.

    Args:
        images: Image sources, with class index or path.
        metadata: How images are opened.
        max_corrupt: Largest number of unreadable images that are skipped.
    """

    CONSEQUENCE: str
    """Sentence of the warning: what happens instead of using an unreadable image."""

    def __init__(self, images: Images[int | str], metadata: ModelMetadata, max_corrupt: int) -> None:
        self.images, self.metadata, self.max_corrupt = images, metadata, max_corrupt
        self._is_corrupt = torch.zeros(len(images), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def corrupt_count(self) -> int:
        """Unreadable images found so far, in any loader process."""
        return int(self._is_corrupt.sum())

    @abstractmethod
    def open(self, source: Source) -> Any:
        """Return an image in the form that the transform takes.

        Raises:
            UserError: When it cannot be read.
        """

    def read(self, index: int) -> tuple[Any, int | str] | None:
        """Return an opened image with its label, or None for an unreadable one.

        Raises:
            UserError: When more images are unreadable than may be left out, or their folder is gone.
        """
        source, label = self.images[index]
        try:
            return self.open(source), label
        except UserError as error:
            if isinstance(source, Path) and not source.parent.is_dir():
                raise UserError(printable(f"Folder {source.parent} is gone: restore it to continue.")) from error
            if not self._is_corrupt[index]:
                self._is_corrupt[index] = True
                count = self.corrupt_count
                if count > self.max_corrupt:
                    raise UserError(
                        f"{error} It is unreadable image number {count}, and {self.max_corrupt} may be skipped: check "
                        "the disk and the download, or change data.on_corrupt or data.max_corrupt."
                    ) from error
                LOGGER.warning("%s %s %d unreadable so far.", error, self.CONSEQUENCE, count)
            return None


class TrainingSample(NamedTuple):
    """An augmented image, uint8 (S, S, 3), with its class index and the rectangle to erase.

    A stored teacher's answer is class indices (K,) and their probabilities (K,).
    """

    image: Tensor
    label: int | str
    rectangle: tuple[int, ...]
    teacher_answer: tuple[np.ndarray, np.ndarray] | None = None


class TrainingBatch(NamedTuple):
    """A batch of a loader: images, uint8 (B, S, S, 3), class indices (B,) and rectangles to erase (B, 5).

    The rectangles are an array, not a tensor, so that they stay on the CPU, where they are needed. A stored teacher's
    answer is class indices (B, K) and their probabilities (B, K).
    """

    images: Tensor
    targets: Tensor
    rectangles: np.ndarray
    teacher_answer: tuple[Tensor, Tensor] | None = None


class TrainingImages(ReadableImages):
    """Augmented images; the augmentation depends only on a draw's seed, not on the process that loads it.

    The seed also decides which image of the same class replaces an unreadable one. An image that is drawn several times
    in a row is decoded once.

    Args:
        images: Image sources, with class index.
        metadata: How images are opened.
        transform: Augmentation.
        max_corrupt: Largest number of unreadable images that are skipped.
    """

    CONSEQUENCE = "Other images of its class replace it."

    def __init__(
        self, images: Images[int | str], metadata: ModelMetadata, transform: TrainingTransform, max_corrupt: int
    ) -> None:
        super().__init__(images, metadata, max_corrupt)
        self.transform = transform
        self._latest: tuple[int, tuple[np.ndarray, int | str] | None] | None = None

    def __getitem__(self, draw: Draw) -> TrainingSample:
        """Return an augmented image."""
        _, pixels, label = self.readable(draw)
        return self.augmented(pixels, label, draw.seed)

    def open(self, source: Source) -> np.ndarray:
        """Return RGB pixels, uint8 (H, W, 3)."""
        return np.array(source) if isinstance(source, Image.Image) else read_pixels(source, self.metadata)

    def augmented(self, pixels: np.ndarray, label: int | str, seed: int) -> TrainingSample:
        """Return an image with the augmentation of a seed."""
        with seeded(seed):
            image = self.transform(pixels)
            return TrainingSample(image, label, self.transform.erasing.draw(self.metadata.image_size, seed))

    def readable(self, draw: Draw, left_out: Collection[int] = frozenset()) -> tuple[int, np.ndarray, int | str]:
        """Return a draw's image with its index and label, or another image of its class if it cannot be used.

        Args:
            draw: The image; its seed decides which image replaces it.
            left_out: Images that are treated like unreadable ones.

        Raises:
            UserError: When no image of the class can be used.
        """
        if self._latest is None or self._latest[0] != draw.image:
            self._latest = draw.image, None if draw.image in left_out else self.read(draw.image)
        sample = self._latest[1]
        if sample is not None:
            return draw.image, *sample
        targets = targets_of(self.images)
        same = np.flatnonzero(targets == targets[draw.image])
        for index in np.random.default_rng(draw.seed).permutation(same).tolist():
            sample = None if self._is_corrupt[index] or index in left_out else self.read(index)
            if sample is not None:
                return index, *sample
        raise UserError(
            f"None of the {len(same)} training images of a class can be read, such as "
            f"{printable(str(self.images[draw.image][0]))}: check the disk and the download, or remove the class."
        )


class EvaluationImages(ReadableImages):
    """Images with class indices, or with their paths to predict; None where an image cannot be read.

    Args:
        images: Image sources, with class index or path.
        metadata: How images are opened and prepared.
        max_corrupt: Largest number of unreadable images that are skipped.
    """

    CONSEQUENCE = "It is skipped: results are of the other images alone."

    def __init__(self, images: Images[int | str], metadata: ModelMetadata, max_corrupt: int) -> None:
        super().__init__(images, metadata, max_corrupt)
        self.transform = evaluation_transform(metadata)

    def open(self, source: Source) -> Image.Image:
        """Return an image in RGB."""
        return source if isinstance(source, Image.Image) else open_image(source, self.metadata)

    def __getitem__(self, index: int) -> tuple[Tensor, int | str] | None:
        """Return the image (3, H, W) with its class index or path."""
        sample = self.read(index)
        return None if sample is None else (self.transform(sample[0]), sample[1])


def collate_training(samples: Sequence[TrainingSample]) -> TrainingBatch:
    """Stack samples; a loader process stacks them directly in shared memory."""
    images, labels, rectangles, answers = zip(*samples, strict=True)
    teacher = None if answers[0] is None else tuple(default_collate(list(answers)))
    rectangles = np.array(rectangles, dtype=np.int64)
    return TrainingBatch(default_collate(list(images)), torch.tensor(labels), rectangles, teacher)


def collate_readable(samples: list[tuple[Tensor, Any] | None]) -> tuple[Tensor, Any]:
    """Stack the samples that could be read: images (B, C, H, W) with targets (B,), or with a list of paths.

    Raises:
        UserError: When none could be read.
    """
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        raise UserError(
            "No image of a whole batch can be read: replace or remove those that the warnings above name, or use a "
            "larger data.batch_size."
        )
    images, labels = zip(*readable, strict=True)
    return torch.stack(images), list(labels) if isinstance(labels[0], str) else torch.tensor(labels)
