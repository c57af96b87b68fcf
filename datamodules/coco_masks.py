"""Reads and writes masks in COCO's formats, polygons and run lengths, with the package that computes COCO's metrics."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from mobilemamba.errors import UserError

Backend = Literal["faster_coco_eval", "pycocotools"]

MODULES: dict[Backend, str] = {"faster_coco_eval": "faster_coco_eval.core.mask", "pycocotools": "pycocotools.mask"}
"""Modules with the same interface by their packages, the faster one first."""


def coco_backend() -> Backend:
    """Return the package that is installed.

    Raises:
        UserError: When there is none.
    """
    for name in MODULES:
        if find_spec(name) is not None:
            return name
    raise UserError(
        "Detection needs faster-coco-eval, which is not installed: pip install mobilemamba-lightning[dense]."
    )


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return a mask (H, W) in uint8 of 0 and 1.

    Args:
        segmentation: Polygons [[x, y, x, y, ...], ...], or run lengths {"size": [H, W], "counts": ...}, whose counts
            are numbers or COCO's compressed text.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Raises:
        ValueError: When it is neither, or has another size.
    """
    code = importlib.import_module(MODULES[coco_backend()])
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", ())) != [height, width]:
            raise ValueError(f"its run lengths have size {segmentation.get('size')}, the image {[height, width]}")
        counts = segmentation["counts"]
        runs = code.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
    else:
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros((height, width), dtype=np.uint8)
        runs = code.merge(code.frPyObjects(polygons, height, width))
    return code.decode(runs)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) as run lengths in COCO's compressed text, for JSON."""
    code = importlib.import_module(MODULES[coco_backend()])
    runs = code.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(map(int, runs["size"])), "counts": bytes(runs["counts"]).decode("ascii")}
