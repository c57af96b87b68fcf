"""Files that appear whole, with all that belongs to them, or not at all.

What is unfinished lies in a hidden folder beside its place and vanishes with whatever goes wrong, Ctrl-C included; a
file that was there before stays as it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a folder of its own, whose content moves beside ``path`` after success.

    Args:
        path: Where the file is to be; its folder exists.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".unfinished") as folder:
        yield Path(folder) / path.name
        move_all(Path(folder), path.parent)


def move_all(finished: Path, target: Path) -> None:
    """Move all entries of one folder to another on the same file system, or none of them.

    Older entries of the same names end up in a subfolder of ``finished``; after an error they are back in their place.
    """
    names = [entry.name for entry in finished.iterdir()]
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
