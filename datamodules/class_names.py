"""Readable names of classes whose folders have technical ones, such as n01440764 for tench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mobilemamba.errors import UserError


def read_class_names(path: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """Return readable names in the order of the class folders.

    Args:
        path: Text file with a folder's name, a space and the readable name in each line; further folders are ignored.
        folders: Names of the class folders.

    Raises:
        UserError: When there is no such file, or a class has no name in it.
    """
    if not path.is_file():
        raise UserError(f"data.class_names_file = {path} is no file: give a text file, or null for the folders' names.")
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    names = {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
    missing = [folder for folder in folders if folder not in names]
    if missing:
        raise UserError(
            f"data.class_names_file = {path} names {len(folders) - len(missing)} of {len(folders)} classes; missing "
            f"are {missing[:5]}: add lines such as `{missing[0]} readable name`."
        )
    return tuple(names[folder] for folder in folders)
