"""What a teacher said of V views of each training image, kept in a folder.

``view_000.npy`` has a row for each image in the order of the data, so no keys are stored: K class indices in int16 and
K probabilities in float16, the likeliest first. It is read through a memory map. ``manifest.json`` says what the store
is of, and has the checksum of each file.

TinyViT (arXiv:2207.10666) and FKD (arXiv:2112.01528) keep the likeliest classes of views that can be drawn again, too.
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
        folder: It has a manifest.

    Raises:
        UserError: When it has none, or one that cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._memory_map = lru_cache(maxsize=8)(self._open)  # epochs and their repeats use few views at a time
        self.manifest = self._read()

    def __getstate__(self) -> dict[str, Any]:
        """Leave memory maps to the process that made them: loader processes have their own."""
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the folder in another process."""
        self.__init__(**state)  # type: ignore[misc]

    @classmethod
    def create(
        cls, folder: Path, fingerprint: Mapping[str, Any], images: int, classes: int, top_k: int
    ) -> StoredTeacher:
        """Make an empty store, or open the one that is there.

        Args:
            folder: Its folder.
            fingerprint: Of data, teacher and augmentation; see :mod:`datamodules.fingerprints`.
            images: Training images.
            classes: Classes of the student.
            top_k: Classes to keep of each answer; all where there are fewer.

        Raises:
            UserError: When the classes do not fit into the form, or another store is there.
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
        """Views that the store is to have."""
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
        """Type of an image's row."""
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
        """Return the views that are still to be stored."""
        return [view for view in range(self.views) if str(view) not in self.manifest["files"]]

    def damaged(self) -> list[int]:
        """Return the views whose files are gone or have changed."""
        files = self.manifest["files"].items()
        return [int(view) for view, entry in files if not self._is_whole(self.path(int(view)), entry["sha256"])]

    def check(self, fingerprint: Mapping[str, Any]) -> None:
        """Check that the store is of these data, this teacher and this augmentation.

        Args:
            fingerprint: What is known of each part; what is not named is not compared.

        Raises:
            UserError: Names the parts that differ, with both values of each entry.
        """
        stored = self.manifest["fingerprint"]
        parts = {part: differences(stored[part], fingerprint[part]) for part in stored if part in fingerprint}
        named = [f"{part} ({'; '.join(found)})" for part, found in parts.items() if found]
        if named:
            raise UserError(
                f"The stored teacher in {self.folder} has other {', other '.join(named)}: use the config and the "
                "packages that it was stored with, or run mobilemamba store-teacher again with another --output."
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
            raise UserError(f"{self.path(damaged[0])} is damaged or gone, its checksum does not fit: {REMEDY}.")

    def want(self, views: int) -> None:
        """Let the store have so many views or more, and forget those whose files are damaged."""
        damaged = self.damaged()
        with self._changed() as manifest:
            manifest["views"] = max(views, manifest["views"])
            for view in damaged:
                del manifest["files"][str(view)]

    @contextmanager
    def claimed(self, view: int) -> Iterator[bool]:
        """Give whether a view is to be stored here: it is missing, and no other process is at work on it.

        The system releases the claim of a process that is killed.
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
        """Give the manifest to change, to one process at a time."""
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
                f"{self.folder} holds no stored teacher, {path} cannot be read: give the folder that mobilemamba "
                "store-teacher has written."
            ) from error
        require(known, str(path), "its form", "1, that of this version")
        return dict(content)

    def _open(self, view: int) -> np.ndarray:
        return np.load(self.path(view), mmap_mode="r", allow_pickle=False)

    def _is_whole(self, path: Path, digest: str) -> bool:
        return path.is_file() and file_digest(path) == digest
