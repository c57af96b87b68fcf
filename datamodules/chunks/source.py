"""The splits and classes of a prepared folder of chunks, on disk or in object storage."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from datamodules.chunks.manifest import MANIFEST, TABLE, Chunk, Manifest, read_manifest
from datamodules.chunks.reading import ImageChunks
from datamodules.chunks.storage import ObjectStorage
from datamodules.classes import check_class_names
from datamodules.folders import SPLITS
from mobilemamba.errors import UserError


def is_prepared(root: Path) -> bool:
    """Return whether `mobilemamba prepare` has written to a folder."""
    return any((root / split / MANIFEST).is_file() for split in SPLITS)


class ChunkFolders:
    """Chunks in root/<split>/.

    Args:
        root: Folder of the splits on disk.
        storage: Object storage that the root is a cache of; None for a local folder.
    """

    def __init__(self, root: Path, storage: ObjectStorage | None = None) -> None:
        self.root, self.storage = root, storage
        self._manifest = cache(self._read)

    @property
    def name(self) -> str:
        """The root as the user gave it."""
        return str(self.root) if self.storage is None else self.storage.url

    def has(self, split: str) -> bool:
        """Return whether there are images of a split."""
        return self._manifest(split) is not None

    def missing(self) -> str:
        """Return an error message where there are no images to fit, otherwise ""."""
        return next((self._no_chunks(split) for split in SPLITS[:2] if not self.has(split)), "")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes.

        Raises:
            UserError: When there are no images, or the splits have different classes.
        """
        names = {manifest.classes for split in SPLITS if (manifest := self._manifest(split)) is not None}
        if not names:
            raise UserError(self.missing())
        if len(names) > 1:
            raise UserError(f"The splits in {self.name} must have the same classes: prepare them together.")
        (classes,) = names
        check_class_names(classes, self.name)
        return classes

    def counts(self) -> dict[str, int]:
        """Return every class with its number of images in the first split that exists."""
        manifest = next(found for split in SPLITS if (found := self._manifest(split)) is not None)
        counts = np.bincount(manifest.targets, minlength=len(manifest.classes)).tolist()
        return dict(zip(manifest.classes, counts, strict=True))

    def load(self, split: str) -> ImageChunks:
        """Return the images of a split.

        Raises:
            UserError: When there are none, or a chunk on disk is missing or has the wrong size.
        """
        manifest = self._manifest(split)
        if manifest is None:
            raise UserError(self._no_chunks(split))
        storage, folder = self.storage, self.root / split
        if storage is not None:
            return ImageChunks(manifest, StoredChunks(storage, split))
        for chunk in manifest.chunks:
            size = (folder / chunk.filename).stat().st_size if (folder / chunk.filename).is_file() else None
            if size != chunk.size:
                found = "is missing" if size is None else f"has {size} bytes instead of {chunk.size}"
                raise UserError(
                    f"Chunk {folder / chunk.filename} {found}: run `mobilemamba prepare` again, or copy it again."
                )
        return ImageChunks(manifest, LocalChunks(folder))

    def _no_chunks(self, split: str) -> str:
        return f"data.root = {self.name} has no chunks in {split}/: write them with `mobilemamba prepare`."

    def _read(self, split: str) -> Manifest | None:
        if self.storage is None:
            return read_manifest(self.root / split) if (self.root / split / MANIFEST).is_file() else None
        file = self.storage.fetch_small(f"{split}/{MANIFEST}")
        if file is None or self.storage.fetch_small(f"{split}/{TABLE}") is None:
            return None
        return read_manifest(file.parent)


class LocalChunks:
    """Chunks on disk; a class, so that it can be pickled for spawned loader processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, chunk: Chunk) -> Path:
        """Return its file."""
        return self.folder / chunk.filename


class StoredChunks:
    """Chunks of a split in object storage."""

    def __init__(self, storage: ObjectStorage, split: str) -> None:
        self.storage, self.split = storage, split

    def __call__(self, chunk: Chunk) -> Path:
        """Return its file in the cache."""
        return self.storage.fetch(f"{self.split}/{chunk.filename}", chunk.size)
