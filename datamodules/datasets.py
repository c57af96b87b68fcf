"""Data sets of single images: augmented from a seed, evaluated, or predicted; damaged files are counted and named."""

from __future__ import annotations

import logging
import multiprocessing
import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.sampling import Draw
from mobilemamba.preprocessing import Transform

LOGGER = logging.getLogger(__name__)

Source = Path | Image.Image
"""An image file, or an image in memory."""

Label = TypeVar("Label", covariant=True)

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files of different formats."""


class Images(Protocol[Label]):
    """Image sources by index, each with its class index or path."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> tuple[Source, Label]:
        """Return one source and its label."""


class CorruptImageError(OSError):
    """An image that cannot be read, or too many of them."""


class CorruptImages:
    """Counts unreadable images over all loader processes of a training process, each file once.

    Args:
        action: "skip" leaves them out and names each in a warning, "raise" stops at the first.
        limit: Most images that may be skipped before it stops all the same.
    """

    def __init__(self, action: Literal["skip", "raise"], limit: int) -> None:
        self.action, self.limit = action, limit
        context = multiprocessing.get_context("spawn")  # its locks can be handed to any kind of process
        self._count = context.Value("q", 0)
        self._known = context.Array("q", limit + 1)  # a digest of each file met

    @property
    def count(self) -> int:
        """Unreadable images met so far."""
        return int(self._count.value)

    def report(self, path: Path, error: Exception, consequence: str) -> None:
        """Count an unreadable file, and warn when it is met for the first time.

        Args:
            path: The file.
            error: What was raised on reading it.
            consequence: What is done without it.

        Raises:
            CorruptImageError: When it must not be skipped.
        """
        message = f"Image {path} cannot be read ({error})"
        if self.action == "raise":
            raise CorruptImageError(f"{message}: replace or remove it, or set data.on_corrupt to skip.") from error
        digest = int.from_bytes(
            blake2b(str(path).encode("utf-8", "surrogateescape"), digest_size=8).digest(), signed=True
        )
        with self._count.get_lock():
            if digest in self._known[: self.count]:
                return
            if self.count < len(self._known):
                self._known[self.count] = digest
                self._count.value += 1
            number = self.count
        if number > self.limit:
            raise CorruptImageError(
                f"{message}, and it is number {number} of its kind, more than data.max_corrupt = {self.limit}: "
                "check the disk and the download, or raise the limit."
            ) from error
        LOGGER.warning("%s: %s (%d unreadable so far).", message, consequence, number)


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """Augmented images; a draw's seed alone decides its augmentation, whichever worker does it.

    An unreadable image is replaced by the next one.

    Args:
        images: Image sources and their class indices.
        transform: Random transform to a tensor.
        corrupt: What to do with unreadable files.
    """

    def __init__(self, images: Images[int], transform: Transform, corrupt: CorruptImages) -> None:
        self.images, self.transform, self.corrupt = images, transform, corrupt

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """Return the image (3, H, W) and its class index."""
        for attempt in range(len(self)):
            source, target = self.images[(draw.image + attempt) % len(self)]
            image = read_image(source, self.corrupt, "the next image takes its place")
            if image is not None:
                with random_state(draw.seed):
                    return self.transform(image), target
        raise CorruptImageError("No image of the training set can be read.")


class EvaluationImages(Dataset[Any]):
    """Images with class indices, or with their paths to predict; None where an image cannot be read.

    Args:
        images: Image sources, with class index or path.
        transform: Transform to a tensor.
        corrupt: What to do with unreadable files.
    """

    def __init__(self, images: Images[int | str], transform: Transform, corrupt: CorruptImages) -> None:
        self.images, self.transform, self.corrupt = images, transform, corrupt

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | str] | None:
        """Return the image (3, H, W) with its class index or path."""
        source, label = self.images[index]
        image = read_image(source, self.corrupt, "it is left out, and results are of the other images alone")
        return None if image is None else (self.transform(image), label)


def collate_readable(samples: list[tuple[Tensor, Any] | None]) -> tuple[Tensor, Any]:
    """Stack the samples that could be read: images (B, C, H, W) with targets (B,), or with a list of paths.

    Raises:
        CorruptImageError: When none could be read.
    """
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        raise CorruptImageError(
            "No image of a whole batch can be read, the warnings above name them: replace or remove them, or use a "
            "larger data.batch_size."
        )
    images, labels = zip(*readable, strict=True)
    return torch.stack(images), list(labels) if isinstance(labels[0], str) else torch.tensor(labels)


def read_image(source: Source, corrupt: CorruptImages, consequence: str) -> Image.Image | None:
    """Return an RGB image, or None for an unreadable file that may be skipped.

    Args:
        source: The image.
        corrupt: Where an unreadable file is reported.
        consequence: What the caller does without it.
    """
    if isinstance(source, Image.Image):
        return source
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        corrupt.report(source, error, consequence)
        return None


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators for a while, and put them back as they were."""
    setters: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well, and is slow
    try:
        yield
    finally:
        for restore, state in setters:
            restore(state)
