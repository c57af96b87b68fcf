"""Splits images into training and validation images, and writes the split as a table for later runs."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.classes import check_every_class_has_images
from datamodules.image_files import ImageFiles
from mobilemamba.files import atomic_write


def choose_validation(images: ImageFiles, share: float, seed: int) -> np.ndarray:
    """Choose a share of each class: its images with the smallest hashes of seed and relative path.

    The choice depends on nothing else. When images are added, few others change sides, only because the number of
    validation images, round(share * images of the class), changes.

    Args:
        images: All images.
        share: Share to validate on, above 0 and below 1.
        seed: Seed of the choice.

    Returns:
        A mask (images,), true for validation images.
    """
    hashes = np.array([_hash(seed, path) for path in images.paths], dtype=np.uint64)
    chosen = np.zeros(len(images), dtype=bool)
    for target in np.unique(images.targets):
        members = np.flatnonzero(images.targets == target)
        count = int(share * len(members) + 0.5)
        chosen[members[np.argsort(hashes[members], kind="stable")[:count]]] = True
    return chosen


def check_division(images: ImageFiles, chosen: np.ndarray, classes: Sequence[str], option: str) -> None:
    """Check that every class has images to train and to validate on.

    Args:
        images: All images.
        chosen: Mask (images,) of the validation images.
        classes: Names of the classes.
        option: The option that splits them, for errors, such as "data.validation_share = 0.2".

    Raises:
        UserError: When a class has none; names it.
    """
    for part, mask in (("train", ~chosen), ("val", chosen)):
        check_every_class_has_images(
            images.targets[mask],
            classes,
            f"{option} divides {images.folder} so that {part}",
            "Add images, leave out the class(es), or take another share.",
        )


def write_split(file: Path, parts: dict[str, ImageFiles], classes: Sequence[str]) -> None:
    """Write a CSV file with the columns path, label and split; names that are not UTF-8 keep their bytes."""
    with (
        atomic_write(file) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text,
    ):
        rows = csv.writer(text)
        rows.writerow(["path", "label", "split"])
        for split, images in parts.items():
            rows.writerows(
                [path, classes[target], split] for path, target in zip(images.paths, images.targets, strict=True)
            )


def _hash(seed: int, path: str) -> int:
    name = f"{seed}/".encode() + os.fsencode(path).replace(os.sep.encode(), b"/")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
