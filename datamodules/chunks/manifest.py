"""The content of a folder of chunks: path, class, position and checksum of each image, by its index."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mobilemamba.errors import UserError
from mobilemamba.files import atomic_write, write_json

MANIFEST, TABLE = "manifest.json", "images.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Chunk:
    """A file of images: its name, number of images and size in bytes."""

    filename: str
    images: int
    size: int


@dataclass(frozen=True)
class Manifest:
    """All images of a split; arrays are in the order of sorted folders and files.

    Args:
        classes: Names of the classes.
        chunks: The files, in their order.
        paths: Paths relative to the root, as bytes (images,).
        targets: Class indices (images,).
        places: Position of each image in the order of the chunks (images,).
        checksums: CRC-32 of each image's file (images,).
    """

    classes: tuple[str, ...]
    chunks: tuple[Chunk, ...]
    paths: np.ndarray
    targets: np.ndarray
    places: np.ndarray
    checksums: np.ndarray

    def write(self, folder: Path) -> None:
        """Write both files, the manifest last: a folder that has one is complete."""
        paths = np.frombuffer(self.paths.tobytes(), np.uint8).reshape(len(self.paths), -1)
        arrays = {"paths": paths, "targets": self.targets, "places": self.places, "checksums": self.checksums}
        with atomic_write(folder / TABLE) as unfinished:
            save_file(arrays, unfinished)
        content = {
            "format": FORMAT,
            "images": len(self.paths),
            "classes": list(self.classes),
            "table_sha256": hashlib.sha256((folder / TABLE).read_bytes()).hexdigest(),
            "chunks": [asdict(chunk) for chunk in self.chunks],
        }
        write_json(folder / MANIFEST, content)


def read_manifest(folder: Path) -> Manifest:
    """Read both files.

    Raises:
        UserError: When they are damaged, or of a later version.
    """
    try:
        content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise UserError(f"{folder / MANIFEST}: format = {content['format']} must be {FORMAT}: prepare it again.")
        table = (folder / TABLE).read_bytes()
        if hashlib.sha256(table).hexdigest() != content["table_sha256"]:
            raise ValueError("checksum")
        arrays = load_file(folder / TABLE)
        chunks = tuple(Chunk(**chunk) for chunk in content["chunks"])
        if not len(arrays["targets"]) == content["images"] == sum(chunk.images for chunk in chunks):
            raise ValueError("count")
    except UserError:
        raise
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder} holds no whole chunks ({type(error).__name__}: {error}): run `mobilemamba prepare` again, or "
            "copy its folder again."
        ) from error
    paths = arrays["paths"]
    return Manifest(
        classes=tuple(content["classes"]),
        chunks=chunks,
        paths=np.ascontiguousarray(paths).view(f"S{paths.shape[1]}")[:, 0],
        targets=arrays["targets"],
        places=arrays["places"],
        checksums=arrays["checksums"],
    )
