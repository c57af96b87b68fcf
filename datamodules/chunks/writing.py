"""One split of an image folder as chunks of LitData: resumable, each chunk whole or not at all."""

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
"""Of an image, besides its file and its path: offset, three sizes, class index."""


class SplitWriter:
    """Writes the images of a split in one order; chunks of an earlier run that hold the same are kept.

    Args:
        images: The images.
        classes: Names of their classes.
        order: Their indices in the order in which they are written (images,).
        folder: Where.
        size: Bytes of a chunk at most, but for one image that is larger.

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
        """Write what is missing, and yield the number of images done after each chunk.

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
        while (file := self.folder / _chunk_name(number)).exists():  # of an earlier run with smaller ones
            file.unlink()
            number += 1
        with tempfile.TemporaryDirectory() as nowhere:
            writer = _writer(nowhere, [self._item(0, b"")])
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
    """Return LitData's name of a chunk of the first process."""
    return f"chunk-0-{number}.bin"


def _writer(folder: str, items: list[list[Any]]) -> Any:
    """Return LitData's writer of one chunk, which holds the items."""
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(folder, chunk_size=len(items))
    for index, item in enumerate(items):
        writer.add_item(index, item)
    return writer


def _holds(file: Path, contents: list[bytes]) -> bool:
    """Return whether a chunk is there and has these files."""
    if not file.is_file() or not file.stat().st_size:
        return False
    chunk = np.memmap(file, np.uint8, mode="r")
    try:
        count = int(chunk[:4].view("<u4")[0])
        return count == len(contents) and all(content_of(chunk, i) == content for i, content in enumerate(contents))
    except (IndexError, ValueError):
        return False
