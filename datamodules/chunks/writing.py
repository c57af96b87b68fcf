"""Writes one split of an image folder as chunks of LitData; it can be resumed, and each chunk is whole or missing."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.chunks.manifest import MANIFEST, Chunk, Manifest, read_manifest
from datamodules.chunks.reading import content_of
from datamodules.image_files import ImageFiles
from mobilemamba.errors import UserError
from mobilemamba.files import atomic_write, write_json
from mobilemamba.images import printable

ITEM_BYTES = 4 + 3 * 4 + 8
"""Bytes of an image besides its file and its path: offset, three sizes, class index."""


class SplitWriter:
    """Writes the images of a split in a given order; chunks of an earlier run with the same images are kept.

    Args:
        images: The images.
        classes: Names of their classes.
        order: Indices of the images in the order in which they are written (images,).
        folder: Folder of the chunks.
        size: Largest size of a chunk in bytes; a larger image gets a chunk of its own.

    Raises:
        UserError: When the folder holds other images.
    """

    def __init__(
        self, images: ImageFiles, classes: tuple[str, ...], order: np.ndarray, folder: Path, size: int
    ) -> None:
        self.images, self.classes, self.order, self.folder, self.size = images, classes, order, folder, size
        self.paths = images.paths
        self.chunks: list[Chunk] = []
        self.checksums = np.zeros(len(images), np.uint32)
        if (folder / MANIFEST).is_file():
            manifest = read_manifest(folder)
            if manifest.classes != classes or not np.array_equal(manifest.paths, images.path_bytes):
                raise UserError(f"--output: {folder} holds other images than {images.folder}: choose another folder.")

    def write(self) -> Iterator[int]:
        """Write missing chunks, and yield the number of finished images after each.

        Raises:
            UserError: When a file cannot be read.
        """
        done = 0
        while done < len(self.order):
            file = self.folder / _chunk_name(len(self.chunks))
            contents = self._contents(done)
            indices = self.order[done : done + len(contents)]
            if not _holds(file, contents):
                self._write_chunk(file, indices.tolist(), contents)
            self.checksums[indices] = [zlib.crc32(content) for content in contents]
            self.chunks.append(Chunk(file.name, len(contents), file.stat().st_size))
            done += len(contents)
            yield done

    def finish(self) -> Manifest:
        """Write LitData's index and the manifest."""
        number = len(self.chunks)
        while (file := self.folder / _chunk_name(number)).exists():  # left by an earlier run with smaller chunks
            file.unlink()
            number += 1
        with tempfile.TemporaryDirectory() as unused:
            writer = _writer(unused, [self._item(0, b"")])
        entries = [
            {"chunk_bytes": chunk.size, "chunk_size": chunk.images, "filename": chunk.filename, "dim": None}
            for chunk in self.chunks
        ]
        config = writer.get_config() | {"chunk_size": None, "chunk_bytes": self.size}
        write_json(self.folder / "index.json", {"chunks": entries, "config": config, "updated_at": "0"})
        places = np.empty(len(self.order), np.int64)
        places[self.order] = np.arange(len(self.order))
        manifest = Manifest(
            self.classes, tuple(self.chunks), self.images.path_bytes, self.images.targets, places, self.checksums
        )
        manifest.write(self.folder)
        return manifest

    def _contents(self, done: int) -> list[bytes]:
        """Return the files of the next chunk."""
        contents: list[bytes] = []
        total = 0
        for index in self.order[done:].tolist():
            file, _ = self.images[index]
            try:
                content = file.read_bytes()
            except OSError as error:
                raise UserError(f"Image {file} cannot be read ({error.strerror}): remove or replace it.") from error
            total += len(content) + len(printable(self.paths[index]).encode()) + ITEM_BYTES
            if contents and total > self.size:
                break
            contents.append(content)
        return contents

    def _item(self, index: int, content: bytes) -> list[Any]:
        return [content, int(self.images.targets[index]), printable(self.paths[index])]

    def _write_chunk(self, file: Path, indices: list[int], contents: list[bytes]) -> None:
        items = [self._item(index, content) for index, content in zip(indices, contents, strict=True)]
        with atomic_write(file) as unfinished, tempfile.TemporaryDirectory(dir=unfinished.parent) as folder:
            (written,) = _writer(folder, items).done()
            Path(written).replace(unfinished)


def _chunk_name(number: int) -> str:
    """Return LitData's file name of a chunk."""
    return f"chunk-0-{number}.bin"


def _writer(folder: str, items: list[list[Any]]) -> Any:
    """Return LitData's writer of one chunk with all items added."""
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(folder, chunk_size=len(items))
    for index, item in enumerate(items):
        writer.add_item(index, item)
    return writer


def _holds(file: Path, contents: list[bytes]) -> bool:
    """Return whether a chunk exists and contains these files."""
    if not file.is_file() or not file.stat().st_size:
        return False
    chunk = np.memmap(file, np.uint8, mode="r")
    try:
        count = int(chunk[:4].view("<u4")[0])
        return count == len(contents) and all(content_of(chunk, i) == content for i, content in enumerate(contents))
    except (IndexError, ValueError):
        return False
