"""Which classes a network gets right, and what it takes the others for: all of it read off a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.tensorboard import cell
from mobilemamba.tables import table


@dataclass(frozen=True)
class Confusion:
    """Images of one class that were taken for another.

    Args:
        target: Their class.
        prediction: The class they were taken for.
        images: How many.
        share: Of all images of their class.
    """

    target: int
    prediction: int
    images: int
    share: float


def confusion_matrix(predictions: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Return images by class and prediction, (C, C), on the CPU.

    Args:
        predictions: Class indices (B,), on any device.
        targets: Class indices (B,).
        num_classes: Number of classes C.
    """
    pairs = (targets * num_classes + predictions).cpu()
    return torch.bincount(pairs, minlength=num_classes**2).unflatten(0, (num_classes, num_classes))


def class_accuracies(matrix: Tensor) -> Tensor:
    """Return the share of each class's images that were recognised, (C,); NaN for classes without images.

    Args:
        matrix: Images by class and prediction, (C, C).
    """
    return matrix.diagonal().double() / matrix.sum(1).double()


def most_confused(matrix: Tensor, count: int) -> list[Confusion]:
    """Return the most frequent confusions, of one class with one other, largest first.

    Args:
        matrix: Images by class and prediction, (C, C).
        count: At most so many; pairs that were never confused are left out.
    """
    mistakes = matrix.clone().fill_diagonal_(0)
    order = mistakes.flatten().argsort(descending=True, stable=True)[:count]
    totals = matrix.sum(1)
    confusions = []
    for position in order.tolist():
        target, prediction = divmod(position, len(matrix))
        images = int(mistakes[target, prediction])
        if images:
            confusions.append(Confusion(target, prediction, images, images / int(totals[target])))
    return confusions


def worst_classes(matrix: Tensor, class_names: Sequence[str] | None, count: int) -> str:
    """Return the classes recognised least often as a Markdown table, with what they are mostly taken for.

    Args:
        matrix: Images by class and prediction, (C, C).
        class_names: Names of all classes, if known.
        count: At most so many; classes without images are left out.
    """
    accuracies, totals = class_accuracies(matrix), matrix.sum(1)
    names = [str(index) for index in range(len(matrix))] if class_names is None else class_names
    present = totals.nonzero().flatten()
    order = present[accuracies[present].argsort(stable=True)][:count]
    rows = []
    for target in order.tolist():
        mistaken = most_confused_with(matrix, target)
        taken_for = "" if mistaken is None else f"{cell(names[mistaken.prediction])} ({mistaken.share:.0%})"
        rows.append((cell(names[target]), str(int(totals[target])), f"{float(accuracies[target]):.1%}", taken_for))
    return table(("class", "images", "recognised", "mostly taken for"), rows)


def most_confused_with(matrix: Tensor, target: int) -> Confusion | None:
    """Return what a class is mostly taken for, or None where all of its images are recognised.

    Args:
        matrix: Images by class and prediction, (C, C).
        target: The class.
    """
    row = matrix[target].clone()
    total = int(row.sum())
    row[target] = 0
    images, prediction = int(row.max()), int(row.argmax())
    return Confusion(target, prediction, images, images / total) if images else None
