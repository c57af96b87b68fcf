"""Decodes ordinary photographs with simplejpeg, where it is installed: the same pixels as Pillow, in less time.

Both call libjpeg-turbo with the same settings. Pillow stores three colours in four bytes, which costs two copies;
simplejpeg writes the array directly. Pillow reads all other images.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np

START = b"\xff\xd8\xff"
"""First bytes of a JPEG file."""

EXIF = b"Exif\0\0"
FIRST_SEGMENTS = 65536
"""EXIF data begin within these bytes, in the first segments of the file."""


@cache
def simplejpeg() -> ModuleType | None:
    """Return the package, None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def photograph_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height of an 8-bit JPEG file in YCbCr or grey, which :func:`decode` takes; None for others."""
    package = simplejpeg()
    if package is None or not content.startswith(START):
        return None
    try:
        height, width, colours, _ = package.decode_jpeg_header(content, strict=True)
    except ValueError:
        return None
    return (width, height) if colours in ("YCbCr", "Gray") else None


def has_exif(content: bytes) -> bool:
    """Return whether a JPEG file has EXIF data, such as its orientation."""
    return EXIF in content[:FIRST_SEGMENTS]


def decode(content: bytes) -> np.ndarray | None:
    """Return RGB pixels, uint8 (H, W, 3), or None for a damaged file, for which Pillow has a better message.

    Args:
        content: A file with a :func:`photograph_size`.
    """
    package = simplejpeg()
    assert package is not None
    try:
        return package.decode_jpeg(content, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        return None
