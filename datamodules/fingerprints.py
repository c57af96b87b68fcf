"""Fingerprints of the training images and their augmentation, as plain values to compare."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.chunks.reading import ImageChunks
from datamodules.image_files import ImageFiles, Images, targets_of
from datamodules.transforms import AugmentationConfig
from mobilemamba.images import EncodedImage
from mobilemamba.metadata import ModelMetadata

MOST_SIZES = 1000
"""Number of files whose sizes are compared: enough to detect another copy of a data set, such as smaller images."""

PACKAGES = ("torch", "timm", "torchvision", "Pillow")
"""Packages that decode and augment, whose versions change pixels."""


def data_fingerprint(images: Images[int]) -> dict[str, Any]:
    """Describe images by their number and a digest of labels, relative paths and some sizes, or pixels in memory.

    For chunks the digest has checksums of the images, so it differs from that of the original folders. Of many files
    only a thousand sizes, evenly spaced, are used: all would take minutes on a network disk.
    """
    digest = hashlib.sha256(targets_of(images).astype("<i4").tobytes())
    if isinstance(images, ImageChunks):
        digest.update(b"\0".join(map(bytes, images.manifest.paths)) + images.manifest.checksums.tobytes())
        return {"images": len(images), "digest": digest.hexdigest()[:16]}
    if isinstance(images, ImageFiles):
        folder = os.path.abspath(images.folder)
        names = (os.path.relpath(path, folder) if os.path.isabs(path) else path for path in images.paths)
        digest.update(b"\0".join(map(os.fsencode, names)))
    for index in np.linspace(0, len(images) - 1, min(len(images), MOST_SIZES)).astype(int).tolist():
        source = images[index][0]
        digest.update(source.tobytes() if isinstance(source, Image.Image) else str(_size(source)).encode())
    return {"images": len(images), "digest": digest.hexdigest()[:16]}


def augmentation_fingerprint(config: AugmentationConfig, metadata: ModelMetadata) -> dict[str, Any]:
    """Describe everything that decides the pixels of an augmented image besides its file and seed."""
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()}
    return options | {
        "image_size": list(metadata.image_size),
        "mean": list(metadata.mean),
        "std": list(metadata.std),
        "exif_orientation": metadata.exif_orientation,
        **{f"version of {package}": version(package) for package in PACKAGES},
    }


def differences(stored: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Return a text for each entry of ``here`` that differs from the stored one."""
    return [
        f"{name}: {reprlib.repr(stored.get(name))} there, {reprlib.repr(value)} here"
        for name, value in here.items()
        if stored.get(name) != value
    ]


def _size(source: Path | EncodedImage) -> int:
    """Return the size of a file in bytes, or -1 on an error, which reading it will report."""
    try:
        return source.stat().st_size if isinstance(source, Path) else len(source.content)
    except OSError:
        return -1
