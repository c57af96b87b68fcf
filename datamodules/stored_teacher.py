"""A folder with a teacher's answers to V views of each training image.

``view_000.npy`` has a row for each image, in the order of the data: K class indices in int16 and K probabilities in
float16, the likeliest first. It is read through a memory map. ``manifest.json`` describes data, teacher and
augmentation, and has the checksum of each file.

TinyViT (arXiv:2207.10666) and FKD (arXiv:2112.01528) also store the likeliest classes of reproducible views.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from datamodules.fingerprints import differences
from datamodules.likeliest_classes import MOST_CLASSES, empty_rows, row_type
from mobilemamba.checksums import file_digest
from mobilemamba.errors import UserError, require
from mobilemamba.files import atomic_write, write_json

MANIFEST = "manifest.json"
REMEDY = "run the same mobilemamba store-teacher again, which stores what is missing"


class StoredTeacher:
    """A folder of a teacher's answers.

    Args:
        folder: The folder, with a manifest.

    Raises:
        UserError: When its manifest is missing or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._memory_map = lru_cache(maxsize=8)(self._open)  # epochs and their repeats use few views at a time
        self.manifest = self._read()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out memory maps: loader processes open their own."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the folder in another process."""
        self.__init__(**state)  # type: ignore[misc]

    @classmethod
    def create(
        cls, folder: Path, fingerprint: Mapping[str, Any], images: int, classes: int, top_k: int
    ) -> StoredTeacher:
        """Make an empty store, or open an existing one.

        Args:
            folder: Its folder.
            fingerprint: Of data, teacher and augmentation; see :mod:`datamodules.fingerprints`.
            images: Number of training images.
            classes: Classes of the student.
            top_k: Number of classes to store of each answer; all if there are fewer.

        Raises:
            UserError: When there are too many classes, or the folder has a store of something else.
        """
        require(top_k >= 1, "--top-k", top_k, "1 or more")
        require(classes <= MOST_CLASSES, "data.num_classes", classes, f"at most {MOST_CLASSES:,} for a stored teacher")
        shape = {"images": images, "classes": classes, "top_k": min(top_k, classes)}
        with FileLock(folder / ".lock"):
            if not (folder / MANIFEST).exists():
                content = {"form": 1, **shape, "views": 0, "fingerprint": dict(fingerprint), "files": {}}
                write_json(folder / MANIFEST, content)
        store = cls(folder)
        store.check(fingerprint)
        kept = store.manifest["top_k"]
        require(kept == shape["top_k"], "--top-k", top_k, f"{kept}, as in {folder}, or --output another folder")
        return store

    @property
    def views(self) -> int:
        """Number of views that the store has when it is finished."""
        return int(self.manifest["views"])

    @property
    def seed(self) -> int:
        """Seed of the views' augmentation."""
        return int(self.manifest["fingerprint"]["augmentation"]["seed"])

    @property
    def classes(self) -> int:
        """Classes of the student."""
        return int(self.manifest["classes"])

    @property
    def row_type(self) -> np.dtype[Any]:
        """Data type of an image's row."""
        return row_type(self.manifest["top_k"])

    @cached_property
    def not_stored(self) -> frozenset[int]:
        """Images that could not be read when the teacher was run."""
        return frozenset(index for entry in self.manifest["files"].values() for index in entry["not_stored"])

    def path(self, view: int) -> Path:
        """Return the file of a view."""
        return self.folder / f"view_{view:03d}.npy"

    def row(self, view: int, image: int) -> tuple[np.ndarray, np.ndarray]:
        """Return class indices (K,) and probabilities (K,) of one image."""
        row = self._memory_map(view)[image]
        return row["classes"].copy(), row["probabilities"].copy()

    def missing(self) -> list[int]:
        """Return the views that are not stored yet."""
        return [view for view in range(self.views) if str(view) not in self.manifest["files"]]

    def damaged(self) -> list[int]:
        """Return the views whose files are missing or have changed."""
        files = self.manifest["files"].items()
        return [int(view) for view, entry in files if not self._is_whole(self.path(int(view)), entry["sha256"])]

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """Check that the store is of these data, this teacher and this augmentation.

        Args:
            fingerprint: What is known of each part; other entries are not compared.

        Raises:
            UserError: Names the parts that differ, with both values of each entry.
        """
        stored = self.manifest["fingerprint"]
        parts = {part: differences(stored[part], fingerprint[part]) for part in stored if part in fingerprint}
        named = [f"{part} ({'; '.join(found)})" for part, found in parts.items() if found]
        if named:
            raise UserError(
                f"The stored teacher in {self.folder} has other {', other '.join(named)}: use the config and package "
                "versions that it was stored with, or run mobilemamba store-teacher with another --output."
            )

    def check_finished(self) -> None:
        """Check that all views have been stored.

        Raises:
            UserError: When some are missing.
        """
        missing = self.missing()
        if missing or not self.views:
            done = self.views - len(missing)
            raise UserError(f"The stored teacher in {self.folder} has {done} of {self.views} views: {REMEDY}.")

    def check_whole(self) -> None:
        """Check that all views have been stored and that none has changed.

        Raises:
            UserError: Names what is missing or damaged.
        """
        self.check_finished()
        damaged = self.damaged()
        if damaged:
            raise UserError(f"{self.path(damaged[0])} is damaged or missing: {REMEDY}.")

    def want(self, views: int) -> None:
        """Set the number of views if it is larger than before, and remove damaged files from the manifest."""
        damaged = self.damaged()
        with self._changed() as manifest:
            manifest["views"] = max(views, manifest["views"])
            for view in damaged:
                del manifest["files"][str(view)]

    @contextmanager
    def claimed(self, view: int) -> Iterator[bool]:
        """Lock a view, and yield whether to store it here: it is missing, and no other process has locked it.

        The lock of a killed process is released by the system.
        """
        lock = FileLock(self.folder / f".view_{view:03d}.lock", timeout=0)
        try:
            with lock:
                self.manifest = self._read()
                yield view in self.missing()
                Path(lock.lock_file).unlink(missing_ok=True)
        except Timeout:
            yield False

    def add(self, view: int, rows: np.ndarray) -> None:
        """Write the file of a view, whole or not at all, and its checksum.

        Args:
            view: Its number.
            rows: One for each image, (images,) of row_type.
        """
        with atomic_write(self.path(view)) as unfinished:
            np.save(unfinished, rows)
            digest = file_digest(unfinished)
        with self._changed() as manifest:
            manifest["files"][str(view)] = {"sha256": digest, "not_stored": empty_rows(rows)}

    @contextmanager
    def _changed(self) -> Iterator[dict[str, Any]]:
        """Lock and yield the manifest, and write it with the changes made to it."""
        with FileLock(self.folder / ".lock"):
            self.manifest = self._read()
            yield self.manifest
            write_json(self.folder / MANIFEST, self.manifest)

    def _read(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            known = isinstance(content, dict) and content.get("form") == 1
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.folder} must be a folder that mobilemamba store-teacher has written: {path} cannot be read."
            ) from error
        require(known, f"{path}: form", content.get("form") if isinstance(content, dict) else content, "1")
        return dict(content)

    def _open(self, view: int) -> np.ndarray:
        return np.load(self.path(view), mmap_mode="r", allow_pickle=False)

    def _is_whole(self, path: Path, digest: str) -> bool:
        return path.is_file() and file_digest(path) == digest
