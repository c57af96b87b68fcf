"""Converts a teacher's answers to rows of the likeliest classes, and back to probabilities of all classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilemamba.errors import UserError

MOST_CLASSES = np.iinfo(np.int16).max + 1
EMPTY = -1
"""Class index that marks an empty row."""


def row_type(kept: int) -> np.dtype[Any]:
    """Return the data type of a row with a number of classes."""
    return np.dtype([("classes", "<i2", (kept,)), ("probabilities", "<f2", (kept,))])


def make_rows(kind: np.dtype[Any], images: int) -> np.ndarray:
    """Return empty rows (images,)."""
    rows = np.zeros(images, dtype=kind)
    rows["classes"] = EMPTY
    return rows


def set_rows(rows: np.ndarray, images: np.ndarray, logits: Tensor) -> None:
    """Set the rows of some images to a teacher's answers.

    Args:
        rows: Rows of all images.
        images: Indices of the images to set, (B,).
        logits: (B, classes).

    Raises:
        UserError: When the teacher's logits are not finite.
    """
    if not logits.isfinite().all():
        raise UserError("The teacher's logits are not finite: check model.teacher and trainer.precision.")
    kept = rows.dtype["classes"].shape[0]
    top = logits.float().softmax(dim=1).topk(kept, dim=1)
    rows["classes"][images] = top.indices.to("cpu", torch.int16).numpy()
    rows["probabilities"][images] = top.values.to("cpu", torch.float16).numpy()


def empty_rows(rows: np.ndarray) -> list[int]:
    """Return the indices of empty rows."""
    indices: list[int] = np.flatnonzero(rows["classes"][:, 0] == EMPTY).tolist()
    return indices


def all_probabilities(classes: Tensor, probabilities: Tensor, num_classes: int) -> Tensor:
    """Return the probabilities of all classes from those of the likeliest.

    The remaining probability is spread evenly over the other classes, as in FKD (arXiv:2112.01528). Dividing it among
    the likeliest classes instead would make the teacher more confident than it was.

    Args:
        classes: Class indices (B, K).
        probabilities: Their probabilities (B, K).
        num_classes: Number of all classes, K or more.

    Returns:
        (B, num_classes) in float32.
    """
    known = probabilities.float()
    rest = (1 - known.sum(dim=1, keepdim=True)).clamp_min(0) / max(num_classes - known.shape[1], 1)
    return rest.repeat(1, num_classes).scatter_(1, classes.long(), known)
