"""Chunks in object storage, kept on disk once they have been read."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from mobilemamba.errors import UserError
from mobilemamba.files import atomic_write


def is_url(root: str) -> bool:
    """Return whether a root is in object storage, such as s3://bucket/folder."""
    return "://" in root


class ObjectStorage:
    """A folder in object storage: s3:// and whatever else LitData reads; keys and endpoints come from the environment.

    Args:
        url: The folder.
        cache: Folder on disk for what has been read, of any storage and any number of runs.
        gigabytes: Most of it (1e9 bytes) that is kept of this folder; None keeps all.

    Raises:
        UserError: When LitData is not installed.
    """

    def __init__(self, url: str, cache: Path, gigabytes: float | None) -> None:
        self.url = url.rstrip("/")
        self.folder = cache / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.limit = None if gigabytes is None else gigabytes * 1e9
        self._downloaders: dict[int, Any] = {}
        _litdata()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out connections."""
        return self.__dict__ | {"_downloaders": {}}

    def fetch(self, name: str, size: int | None = None) -> Path:
        """Return a local copy of a file, loaded once by all processes of a machine.

        Args:
            name: Path relative to the folder.
            size: Its bytes, if they are known.

        Raises:
            UserError: When it cannot be loaded.
        """
        file = self.folder / name
        if not _is_whole(file, size):
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.wait"):
                if not _is_whole(file, size):
                    self._load_whole(name, file, size)
                    self._make_room(file)
        with suppress(OSError):
            os.utime(file)  # for the order in which room is made
        return file

    def fetch_small(self, name: str) -> Path | None:
        """Return a new local copy of a file, None where there is no such file."""
        file = self.folder / name
        try:
            self._load(name, file)
        except FileNotFoundError:
            return None
        return file

    def _load_whole(self, name: str, file: Path, size: int | None) -> None:
        try:
            self._load(name, file)
        except FileNotFoundError as error:
            raise UserError(f"{self.url}/{name} is missing: upload it again.") from error
        if not _is_whole(file, size):
            raise UserError(f"{self.url}/{name} has not the {size} bytes that its manifest says: upload it again.")

    def _load(self, name: str, file: Path) -> None:
        # Not by download_file: it starts threads in this process that loader processes forked from it do not survive.
        with atomic_write(file) as unfinished, unfinished.open("wb") as content:
            try:
                self._downloader().download_fileobj(f"{self.url}/{name}", content)
            except Exception as error:
                if any(sign in str(error) for sign in ("404", "NoSuchKey", "Not Found")):
                    raise FileNotFoundError(name) from error
                raise UserError(
                    f"{self.url}/{name} cannot be loaded ({type(error).__name__}: {error}): check the address, the "
                    "network and the keys, such as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL."
                ) from error

    def _downloader(self) -> Any:
        process = os.getpid()  # a connection is not shared with a child
        if self._downloaders.keys() != {process}:
            self._downloaders = {process: _litdata().get_downloader(self.url, str(self.folder), [], {})}
        return self._downloaders[process]

    def _make_room(self, newest: Path) -> None:
        """Delete what has not been used for longest; processes that have it open keep it."""
        if self.limit is None:
            return
        files = []
        for file in self.folder.rglob("*.bin"):
            with suppress(OSError):
                files.append((file.stat().st_mtime, file.stat().st_size, file))
        excess = sum(size for _, size, _ in files) - self.limit
        for _, size, file in sorted(files):
            if excess <= 0:
                return
            if file != newest:
                file.unlink(missing_ok=True)
                excess -= size


def _is_whole(file: Path, size: int | None) -> bool:
    try:
        return file.stat().st_size == size or (size is None and file.is_file())
    except OSError:
        return False


def _litdata() -> Any:
    try:
        from litdata.streaming import downloader
    except ImportError as error:
        raise UserError(
            "data.root is in object storage, which LitData reads: install it by pip install "
            "mobilemamba-lightning[chunks]."
        ) from error
    return downloader
