"""Finds and opens image files, for training, evaluation, export and pictures alike."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from mobilemamba import jpeg
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata

T = TypeVar("T")

USUAL_ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Default endings of image files, those of torchvision's ImageFolder."""

NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow knows by name but cannot decode itself on every system."""

SYSTEM_NAMES = frozenset(
    {
        "__macosx",
        "__pycache__",
        "#recycle",
        "$recycle.bin",
        "@eadir",
        "desktop.ini",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
"""Files and folders of the operating system, in lower case; all names that begin with a dot count too."""

MAX_RESIZED_PIXELS = 2**25
"""Most pixels of an image after its shorter side is resized: 100 MB in RGB. At 256 pixels its ratio may be 512:1."""


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file that is stored inside a larger file, and its name for messages."""

    name: str
    content: bytes

    def __str__(self) -> str:
        """Return its name."""
        return self.name


def image_endings(all_formats: bool) -> tuple[str, ...]:
    """Return the endings of image files: the usual ones, or those of every format that Pillow decodes."""
    if not all_formats:
        return USUAL_ENDINGS
    Image.init()
    decoded = Image.OPEN.keys() - NOT_DECODED
    return tuple(sorted(ending for ending, name in Image.registered_extensions().items() if name in decoded))


def list_images(folder: Path, all_formats: bool = False) -> list[str]:
    """Return the images in a folder, in any depth, as sorted paths relative to it.

    Hidden and system files and folders are left out. Links are followed, but no folder is entered twice.

    Args:
        folder: Folder.
        all_formats: Whether to look for every format that Pillow decodes.

    Raises:
        UserError: When a folder cannot be listed.
    """
    endings = image_endings(all_formats)
    found = [
        (place, sorted(name for name in names if name.lower().endswith(endings) and not _is_system(name)))
        for place, names in _walk(folder)
    ]
    return [os.path.join(place, name) for place, names in sorted(found) for name in names]


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in a folder; none where it does not exist.

    Hidden and system folders are left out, and so are links to the folder itself or to a parent of it.
    """
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not _is_system(entry.name)
            and entry.is_dir()
            and not (entry.is_symlink() and _holds(folder / entry.name, folder))
        )


def find_images(folder: Path, option: str, all_formats: bool = False) -> list[Path]:
    """Return the images in a folder, in any depth, sorted.

    Args:
        folder: Folder.
        option: The user's option that names it, for errors.
        all_formats: Whether to look for every format that Pillow decodes.

    Raises:
        UserError: When it is not a folder or holds no images.
    """
    if not folder.is_dir():
        raise UserError(f"{option} = {folder} must be a folder with images: it does not exist.")
    files = [folder / name for name in list_images(folder, all_formats)]
    if not files:
        endings = ", ".join(image_endings(all_formats))
        raise UserError(f"{option} = {folder} must hold images: expected files ending in {endings}.")
    return files


def open_image(file: Path | EncodedImage, metadata: ModelMetadata | None = None) -> Image.Image:
    """Return an image in RGB, whatever its format and mode.

    Transparency becomes white. 16-bit images are scaled from 0..65535. 32-bit and float images are scaled from the
    smallest of 0..1 (floats), 0..255 and 0..65535 that holds their values, or else from their minimum to their maximum.

    Args:
        file: The file.
        metadata: How the image is prepared; None ignores its EXIF orientation and does not check its size.

    Raises:
        UserError: When the file cannot be read, or resizing it would need too much memory. Any error of a decoder
            counts, except MemoryError, which is a problem of the machine and not of the file.
    """
    try:
        with Image.open(io.BytesIO(file.content) if isinstance(file, EncodedImage) else file) as image:
            if metadata is not None:
                _check_shape(image.size, metadata)
            image.load()
            return _rgb(_upright(image) if metadata is not None and metadata.exif_orientation else image)
    except MemoryError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UserError(printable(f"Image {file} cannot be read ({reason}): remove or replace it.")) from error


def read_pixels(file: Path | EncodedImage, metadata: ModelMetadata) -> np.ndarray:
    """Return the pixels of :func:`open_image` as uint8 (H, W, 3), using the fastest decoder for ordinary photographs.

    Args:
        file: The file.
        metadata: How the image is prepared.

    Raises:
        UserError: As :func:`open_image`, which reads all other images and damaged ones.
    """
    pixels = _photograph(file, metadata) if jpeg.simplejpeg() is not None else None
    return np.array(open_image(file, metadata)) if pixels is None else pixels


def _photograph(file: Path | EncodedImage, metadata: ModelMetadata) -> np.ndarray | None:
    try:
        content = file.content if isinstance(file, EncodedImage) else file.read_bytes()
    except OSError:
        return None
    size = jpeg.photograph_size(content)
    if size is None or (metadata.exif_orientation and jpeg.has_exif(content)):
        return None
    if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or 0) or _resized_pixels(size, metadata) > MAX_RESIZED_PIXELS:
        return None
    return jpeg.decode(content)


def printable(text: str | Path) -> str:
    r"""Return a path, or text with paths, in valid UTF-8: invalid bytes become escapes such as \udce9.

    Used wherever paths leave the program: in tables, messages, and class names in files.
    """
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Return ``count`` items at even distances, or all if there are fewer: sorted class folders all get their share."""
    count, total = min(count, len(items)), len(items)
    return [items[index * total // count] for index in range(count)]


def _is_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def _holds(folder: Path, other: Path) -> bool:
    """Return whether a folder is another one or contains it, with links resolved."""
    held, holder = (os.path.join(os.path.realpath(path), "") for path in (other, folder))
    return held.startswith(holder)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder, relative to the first, and the names of the files in it."""

    def refuse(error: OSError) -> None:
        raise UserError(printable(f"Folder {error.filename} cannot be listed ({error.strerror}).")) from error

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or (seen and _holds(Path(place), folder)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_system(name))
        relative = os.path.relpath(place, folder)
        yield ("" if relative == "." else relative), names


def _check_shape(size: tuple[int, int], metadata: ModelMetadata) -> None:
    """Raise ValueError for an image that would become too large when it is resized."""
    pixels = _resized_pixels(size, metadata)
    if pixels > MAX_RESIZED_PIXELS:
        raise ValueError(
            f"{size[0]} x {size[1]} pixels would become {pixels / 1e6:,.0f} million when the shorter side is resized "
            f"to {_resized_side(metadata):.0f}; at most {MAX_RESIZED_PIXELS / 1e6:.0f} million are allowed"
        )


def _resized_side(metadata: ModelMetadata) -> float:
    return max(metadata.image_size) / metadata.crop_pct


def _resized_pixels(size: tuple[int, int], metadata: ModelMetadata) -> float:
    return _resized_side(metadata) ** 2 * max(size) / min(size)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a loaded image by its EXIF orientation; damaged EXIF data are ignored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # I, I;16, I;16B
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale grey levels (H, W) of 16 or 32 bits to 0..255; infinite values become the nearest end of the range."""
    low, high = _range(values)
    finite = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.rint((finite - low) * (255 / ((high - low) or 1))).astype(np.uint8)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return the grey levels of black and white."""
    if values.dtype.itemsize == 2:
        return 0, 65535
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    usual = [top for top in ((1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)) if most <= top]
    return (0, usual[0]) if usual and least >= 0 else (least, most)
