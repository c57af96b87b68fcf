"""Images by index, each with its class index or path; a long list of files in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

Source = Path | Image.Image
"""An image file, or an image in memory."""

Label = TypeVar("Label", covariant=True)


class Images(Protocol[Label]):
    """Image sources by index, each with its class index or path."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> tuple[Source, Label]:
        """Return one source and its label."""


class ImageFiles:
    """Image files below a folder, with their class indices.

    A million Path objects would take hundreds of megabytes, and every loader process would come to copy them because
    reading an object changes its reference count; two arrays take about 50 bytes per image and stay shared.

    Args:
        folder: Folder that all files are below.
        samples: File names, beginning with the folder's, and class indices.
    """

    def __init__(self, folder: Path, samples: Sequence[tuple[str, int]]) -> None:
        self.folder = folder
        start = len(str(folder)) + 1
        self._names = np.array([os.fsencode(name[start:]) for name, _ in samples], dtype=np.bytes_)
        self._targets = np.array([target for _, target in samples], dtype=np.int32)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        """Return a file and its class index."""
        return self.folder / os.fsdecode(bytes(self._names[index])), int(self._targets[index])

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        """Go through all files."""
        return (self[index] for index in range(len(self)))
