"""Image files: found in one place, opened in one place, for training, evaluation, export and pictures alike."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from mobilemamba.errors import UserError

T = TypeVar("T")

UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises for damaged files of different formats."""


def find_images(folder: Path, option: str) -> list[Path]:
    """Return the images in a folder, in any depth, sorted.

    Args:
        folder: Folder.
        option: What the user named it by, for errors.

    Raises:
        UserError: When it is no folder or holds no images.
    """
    if not folder.is_dir():
        raise UserError(f"{option} = {folder} must be a folder with images: there is no such folder.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)
    if not files:
        raise UserError(f"{option} = {folder} must hold images: expected files ending in {', '.join(IMG_EXTENSIONS)}.")
    return files


def open_image(file: Path) -> Image.Image:
    """Return an image in RGB.

    Raises:
        UserError: When the file cannot be read.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise UserError(f"Image {file} cannot be read ({error}): remove or replace it.") from error


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Choose items at even distances, so that sorted folders of classes all have their share.

    Args:
        items: What to choose from.
        count: Items wanted; all are taken where there are fewer.
    """
    count, total = min(count, len(items)), len(items)
    return [items[index * total // count] for index in range(count)]
