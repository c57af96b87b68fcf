"""Writes files, and the files that belong to them, whole or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mobilemamba.errors import UserError

UNFINISHED = ".unfinished"
"""Suffix of the hidden folders in which files are written."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a path of the same name in a hidden folder; all files written into that folder then move beside ``path``.

    After an error or Ctrl-C nothing is left behind, and older files are unchanged.

    Args:
        path: Final place of the file; its folder is created if it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED) as folder:
        yield Path(folder) / path.name
        _move_all(Path(folder), path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, in UTF-8."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def check_writable(folder: str | Path) -> None:
    """Create a folder if it does not exist, and try to write in it.

    Raises:
        UserError: When either fails.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"Folder {folder} cannot be written ({error.strerror}): choose another folder or correct its permissions."
        ) from error


def _move_all(finished: Path, target: Path) -> None:
    """Move all entries of one folder to another on the same file system, or none of them."""
    names = [entry.name for entry in finished.iterdir()]
    if (
        len(names) == 1 and (finished / names[0]).is_file()
    ):  # in one step, so that a kill leaves the old or the new file
        (finished / names[0]).replace(target / names[0])
        return
    older = finished / "older"
    older.mkdir()
    moves: list[tuple[Path, Path]] = []
    try:
        for name in names:
            for source, destination in ((target / name, older / name), (finished / name, target / name)):
                if source.exists():
                    moves.append((source, destination))
                    source.rename(destination)
    except BaseException:
        for source, destination in reversed(moves):
            if not source.exists():
                destination.rename(source)
        raise
