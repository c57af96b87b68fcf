"""Data sets of single images: augmented from a seed, evaluated, or predicted; damaged files are counted and named."""

from __future__ import annotations

import logging
import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.sampling import Draw
from datamodules.transforms import Transform

LOGGER = logging.getLogger(__name__)

Source = Path | Image.Image
"""An image file, or an image in memory."""


class CorruptImageError(OSError):
    """An image that cannot be read, or too many of them."""


class CorruptImages:
    """Counts unreadable images over all loader processes.

    Args:
        action: "skip" leaves them out and names each in a warning, "raise" stops at the first.
        limit: Most images that may be skipped before it stops all the same.
    """

    def __init__(self, action: Literal["skip", "raise"], limit: int) -> None:
        self.action, self.limit = action, limit
        self._count = multiprocessing.get_context("spawn").Value("q", 0)
        self._known: set[str] = set()

    @property
    def count(self) -> int:
        """Unreadable images met so far."""
        return int(self._count.value)

    def report(self, path: Path, error: Exception) -> None:
        """Count an unreadable file.

        Raises:
            CorruptImageError: When it must not be skipped.
        """
        message = f"Image {path} cannot be read ({error})"
        if self.action == "raise":
            raise CorruptImageError(f"{message}: replace or remove it, or set data.on_corrupt to skip.") from error
        if str(path) in self._known:
            return
        self._known.add(str(path))
        with self._count.get_lock():
            self._count.value += 1
        if self.count > self.limit:
            raise CorruptImageError(
                f"{message}, and it is number {self.count} of its kind, more than data.max_corrupt = {self.limit}: "
                "check the disk and the download, or raise the limit."
            ) from error
        LOGGER.warning("%s: it is left out (%d so far).", message, self.count)


class TrainingImages(Dataset[tuple[Tensor, int]]):
    """Augmented images; a draw's seed alone decides its augmentation, whichever worker does it.

    An unreadable image is replaced by the next one.

    Args:
        images: Image sources and their class indices.
        transform: Random transform to a tensor.
        corrupt: What to do with unreadable files.
    """

    def __init__(self, images: Sequence[tuple[Source, int]], transform: Transform, corrupt: CorruptImages) -> None:
        self.images, self.transform, self.corrupt = images, transform, corrupt

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        """Return the image (3, H, W) and its class index."""
        for attempt in range(len(self)):
            source, target = self.images[(draw.image + attempt) % len(self)]
            image = read_image(source, self.corrupt)
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

    def __init__(
        self, images: Sequence[tuple[Source, int | str]], transform: Transform, corrupt: CorruptImages
    ) -> None:
        self.images, self.transform, self.corrupt = images, transform, corrupt

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int | str] | None:
        """Return the image (3, H, W) with its class index or path."""
        source, label = self.images[index]
        image = read_image(source, self.corrupt)
        return None if image is None else (self.transform(image), label)


def collate_readable(samples: list[tuple[Tensor, Any] | None]) -> tuple[Tensor, Any]:
    """Stack the samples that could be read: images (B, C, H, W) with targets (B,), or with a list of paths.

    Raises:
        CorruptImageError: When none could be read.
    """
    readable = [sample for sample in samples if sample is not None]
    if not readable:
        raise CorruptImageError("No image of a whole batch can be read: see the warnings above for their names.")
    images, labels = zip(*readable, strict=True)
    return torch.stack(images), list(labels) if isinstance(labels[0], str) else torch.tensor(labels)


def read_image(source: Source, corrupt: CorruptImages) -> Image.Image | None:
    """Return an RGB image, or None for an unreadable file that may be skipped."""
    if isinstance(source, Image.Image):
        return source
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises all of these
        corrupt.report(source, error)
        return None


@contextmanager
def random_state(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's generators for a while, and put them back as they were."""
    setters: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        for restore, state in setters:
            restore(state)
