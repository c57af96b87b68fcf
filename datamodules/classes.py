"""Checks of classes from folders and tables, and files of readable names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mobilemamba.errors import UserError
from mobilemamba.images import printable

SHOWN = 5
"""Largest number of names in a message."""


def check_class_names(names: Sequence[str], where: str) -> None:
    """Check the names of all classes.

    Args:
        names: All names.
        where: Folder or table that they come from, for errors.

    Raises:
        UserError: When there is only one class, or names differ only in case.
    """
    if len(names) == 1:
        raise UserError(printable(f"{where} has one class, {names[0]}: two or more are needed."))
    same: dict[str, str] = {}
    for name in names:
        other = same.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(
                printable(f"{where} has classes that differ only in case, {other} and {name}: give both one name.")
            )


def check_number_of_classes(counts: dict[str, int], expected: int, known: Sequence[str] | None, where: str) -> None:
    """Check that the data have as many classes as data.num_classes says.

    Args:
        counts: Every class with its number of images.
        expected: data.num_classes.
        known: Names of all expected classes, where a file lists them.
        where: Folder or table of the classes, for errors.

    Raises:
        UserError: When there are more or fewer; names which.
    """
    surplus = len(counts) - expected
    if not surplus:
        return
    if known is None:
        names = sorted(counts, key=lambda name: counts[name])[: max(surplus, 0)]
        which = ", ".join(f"{name} ({counts[name]})" for name in names[:SHOWN])
        which = f"; those with the fewest images are {which}" if names else f": {', '.join([*counts][:SHOWN])}"
    else:
        names = sorted(set(counts) - set(known) if surplus > 0 else set(known) - set(counts))
        which = f", namely {', '.join(names[:SHOWN])}"
    raise UserError(
        printable(
            f"{where} has {len(counts)} classes, {abs(surplus)} {'more' if surplus > 0 else 'fewer'} than "
            f"data.num_classes = {expected}{which}{', ...' if len(names) > SHOWN else ''}. Set --data.num_classes "
            f"null to take all {len(counts)} (the network follows), or correct the data."
        )
    )


def check_every_class_has_images(targets: np.ndarray, names: Sequence[str], where: str, remedy: str) -> None:
    """Check that no class is empty.

    Args:
        targets: Class indices of all images (images,).
        names: Names of the classes.
        where: Folder or table of the images, for errors.
        remedy: What the user can do.

    Raises:
        UserError: When a class is empty; names it.
    """
    counts = np.bincount(targets, minlength=len(names))
    empty = [names[index] for index in np.flatnonzero(counts == 0).tolist()]
    if empty:
        shown = ", ".join(empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
        raise UserError(printable(f"{where} has no images of {len(empty)} class(es): {shown}. {remedy}"))


def read_class_names(path: Path) -> dict[str, str]:
    """Return readable names by technical class names, such as "tench" for n01440764.

    Args:
        path: Text file with a class, a space and its readable name in each line.

    Raises:
        UserError: When there is no such file.
    """
    if not path.is_file():
        raise UserError(f"data.class_names_file = {path} must be a text file, or null for the folders' names.")
    lines = (line.split(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines())
    return {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}


def readable_names(path: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Return readable names in the order of the classes; other lines of the file are ignored.

    Raises:
        UserError: When there is no such file, or it has no name for a class.
    """
    names = read_class_names(path)
    missing = [name for name in classes if name not in names]
    if missing:
        raise UserError(
            f"data.class_names_file = {path} must name all classes; it names {len(classes) - len(missing)} of "
            f"{len(classes)} and lacks {missing[:SHOWN]}: add lines such as `{missing[0]} readable name`."
        )
    return tuple(names[name] for name in classes)
