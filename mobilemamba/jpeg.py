"""Ordinary photographs decoded by simplejpeg, where it is installed: the pixels of Pillow, in less time.

Both call libjpeg-turbo with the same settings. Pillow keeps four bytes for each pixel of three, which takes a copy in
and one out; simplejpeg writes the array itself. What is not an ordinary photograph is left to Pillow.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np

START = b"\xff\xd8\xff"
"""First bytes of a JPEG file."""

EXIF = b"Exif\0\0"
FIRST_SEGMENTS = 65536
"""Bytes in which EXIF data begin, where there are any: they are in the first segments."""


@cache
def simplejpeg() -> ModuleType | None:
    """Return the package, None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def photograph_size(content: bytes) -> tuple[int, int] | None:
    """Return width and height of a photograph that :func:`decode` takes, None of anything else.

    It takes JPEG files in the colours of cameras, or grey, with 8 bits.
    """
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
    """Return RGB pixels, uint8 (H, W, 3), or None for a damaged file, of which Pillow says what is wrong.

    Args:
        content: A file with a :func:`photograph_size`.
    """
    package = simplejpeg()
    assert package is not None
    try:
        return package.decode_jpeg(content, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
    except ValueError:
        return None
