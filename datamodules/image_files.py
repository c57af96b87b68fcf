"""Image files: those below a folder, and a long list of them in little memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from mobilemamba.errors import UserError


def find_images(folder: Path) -> list[tuple[Path, str]]:
    """Return the images in a folder, in any depth, with their paths relative to it, sorted.

    Raises:
        UserError: When there are none, or no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"data.predict_folder = {folder} is no folder: give one with images.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    if not files:
        raise UserError(
            f"data.predict_folder = {folder} holds no images: expected files ending in {', '.join(IMG_EXTENSIONS)}."
        )
    return [(path, str(path.relative_to(folder))) for path in files]


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
