"""Images by index, each with its class index or path; long lists of files need little memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from mobilemamba.images import EncodedImage

Source = Path | EncodedImage | Image.Image
"""An image file, its content, or an image in memory."""

Label = TypeVar("Label", covariant=True)


class Images(Protocol[Label]):
    """Image sources by index, each with its class index or path."""

    def __len__(self) -> int:
        """Return the number of images."""

    def __getitem__(self, index: int, /) -> tuple[Source, Label]:
        """Return one source and its label."""


class ImageFiles:
    """Image files below a folder, with their class indices.

    A million Path objects would take hundreds of megabytes, and every loader process would copy them, because reading
    an object changes its reference count. Two arrays take about 50 bytes per image and stay shared.

    Args:
        folder: Folder that the paths are relative to.
        paths: Relative or absolute paths, as text or as an array of bytes.
        targets: Class indices.
    """

    def __init__(self, folder: Path, paths: Sequence[str] | np.ndarray, targets: Sequence[int] | np.ndarray) -> None:
        self.folder = folder
        kept = paths if isinstance(paths, np.ndarray) else [os.fsencode(path) for path in paths]
        self._paths = np.array(kept, dtype=np.bytes_)
        self.targets = np.array(targets, dtype=np.int32)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        """Return a file and its class index."""
        return self.folder / os.fsdecode(bytes(self._paths[index])), int(self.targets[index])

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        """Go through all files."""
        return (self[index] for index in range(len(self)))

    @property
    def paths(self) -> list[str]:
        """The paths as they were given."""
        return [os.fsdecode(bytes(path)) for path in self._paths]

    @property
    def path_bytes(self) -> np.ndarray:
        """The paths as bytes (images,)."""
        return self._paths

    def where(self, mask: np.ndarray) -> ImageFiles:
        """Return those images whose entry in a mask (images,) is true."""
        return ImageFiles(self.folder, self._paths[mask], self.targets[mask])


def targets_of(images: Images[int | str]) -> np.ndarray:
    """Return the class indices (images,) of labelled images."""
    targets = getattr(images, "targets", None)
    if isinstance(targets, np.ndarray):
        return targets
    return np.array([images[index][1] for index in range(len(images))], dtype=np.int32)
