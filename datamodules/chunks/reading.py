"""Images of chunks by index; their checksums are checked when they are first read."""

from __future__ import annotations

import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.chunks.manifest import Chunk, Manifest
from mobilemamba.errors import UserError
from mobilemamba.images import EncodedImage, printable

OPEN_CHUNKS = 256
"""Largest number of chunks that a process keeps mapped into memory."""


class ImageChunks:
    """Images of chunks with their class indices, in the order of the original folders.

    Args:
        manifest: The content of the chunks.
        fetch: Returns the local file of a chunk.
    """

    def __init__(self, manifest: Manifest, fetch: Callable[[Chunk], Path]) -> None:
        self.manifest, self.fetch = manifest, fetch
        self.targets: np.ndarray = manifest.targets
        self._ends = np.cumsum([chunk.images for chunk in manifest.chunks])
        self._checked = torch.zeros(len(self), dtype=torch.bool).share_memory_()  # shared by all loader processes
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.manifest.paths)

    def __getitem__(self, index: int) -> tuple[EncodedImage, int]:
        """Return the content of an image's file and its class index.

        Raises:
            UserError: When the chunk is missing or damaged.
        """
        place = int(self.manifest.places[index])
        number = int(np.searchsorted(self._ends, place, side="right"))
        chunk = self.manifest.chunks[number]
        try:
            content = content_of(self._map(number), place - int(self._ends[number]) + chunk.images)
        except (IndexError, ValueError):
            content = b""
        if not self._checked[index]:
            if zlib.crc32(content) != self.manifest.checksums[index]:
                raise UserError(
                    f"Chunk {self.fetch(chunk)} is damaged: the checksum of {self._name(index)} is wrong. Delete the "
                    "chunk and run `mobilemamba prepare` again, or copy it again, and check the disk."
                )
            self._checked[index] = True
        return EncodedImage(self._name(index), content), int(self.targets[index])

    def __iter__(self) -> Iterator[tuple[EncodedImage, int]]:
        """Go through all images."""
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out memory maps."""
        return self.__dict__ | {"_open": OrderedDict()}

    def members(self) -> list[np.ndarray]:
        """Return the indices of each chunk's images."""
        return np.split(np.argsort(self.manifest.places, kind="stable"), self._ends[:-1])

    def _name(self, index: int) -> str:
        return printable(os.fsdecode(bytes(self.manifest.paths[index])))

    def _map(self, number: int) -> np.ndarray:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        file = self.fetch(self.manifest.chunks[number])
        try:
            self._open[number] = np.asarray(np.memmap(file, np.uint8, mode="r"))
        except OSError as error:
            raise UserError(f"Chunk {file} cannot be read ({error.strerror}): restore it to continue.") from error
        if len(self._open) > OPEN_CHUNKS:
            self._open.popitem(last=False)
        return self._open[number]


class NamedChunks:
    """Images of chunks with their paths instead of class indices.

    Args:
        images: The images.
    """

    def __init__(self, images: ImageChunks) -> None:
        self.images = images

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[EncodedImage, str]:
        """Return the content of an image's file and its path."""
        source, _ = self.images[index]
        return source, source.name


def content_of(chunk: np.ndarray, item: int) -> bytes:
    """Return the file of an image in a chunk of LitData.

    A chunk is the number n of its items, n + 1 offsets, and the items. An item is three sizes, and then a file, a class
    index and a path. Numbers have 32 bits.

    Args:
        chunk: The bytes of the chunk.
        item: Index of the image in the chunk.
    """
    start = _number(chunk, 4 + 4 * item)
    return bytes(chunk[start + 12 : start + 12 + _number(chunk, start)])


def _number(chunk: np.ndarray, place: int) -> int:
    return int(chunk[place : place + 4].view("<u4")[0])
