"""Chunks in object storage, with a cache on disk."""

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
    """A folder in object storage: s3:// or any other URL that LitData reads, with keys from the environment.

    Args:
        url: The folder.
        cache: Folder on disk for downloaded files, which several URLs and runs may share.
        gigabytes: Largest size in 1e9 bytes of this folder's files in the cache; None keeps all.

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
        """Return a local copy of a file, downloaded once for all processes of a machine.

        Args:
            name: Path relative to the folder.
            size: Its size in bytes, if known.

        Raises:
            UserError: When it cannot be downloaded.
        """
        file = self.folder / name
        if not _is_whole(file, size):
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{file}.wait"):
                if not _is_whole(file, size):
                    self._load_whole(name, file, size)
                    self._make_room(file)
        with suppress(OSError):
            os.utime(file)  # the least recently used files are deleted first
        return file

    def fetch_small(self, name: str) -> Path | None:
        """Download a file and return its local copy, or None if it does not exist."""
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
            raise UserError(f"{self.url}/{name} must have {size} bytes, as its manifest says: upload it again.")

    def _load(self, name: str, file: Path) -> None:
        # Not download_file: it starts threads, with which loader processes cannot be forked safely.
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
        process = os.getpid()  # a forked process needs its own connection
        if self._downloaders.keys() != {process}:
            self._downloaders = {process: _litdata().get_downloader(self.url, str(self.folder), [], {})}
        return self._downloaders[process]

    def _make_room(self, newest: Path) -> None:
        """Delete the least recently used files; processes that have them open can still read them."""
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
            "data.root in object storage needs LitData: pip install mobilemamba-lightning[chunks]."
        ) from error
    return downloader
