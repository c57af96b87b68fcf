"""Confusions of classes: the whole matrix of a few classes, the most frequent confusions of many."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.class_results import most_confused
from lightning_modules.pictures.names import class_name

MOST_CLASSES = 40
"""Of a matrix that can be read; with more, the most frequent confusions are drawn."""

MOST_NUMBERS = 20
"""Classes up to which every field holds its number."""

PAIRS = 25
"""Confusions drawn where there are many classes."""


def draw_confusion(matrix: Tensor, class_names: Sequence[str] | None) -> Figure:
    """Draw a confusion matrix, in the form that suits the number of classes.

    Args:
        matrix: Images by class and prediction, (C, C), on the CPU.
        class_names: Names of all classes, if known.
    """
    draw = draw_matrix if len(matrix) <= MOST_CLASSES else draw_pairs
    return draw(matrix, class_names)


def draw_matrix(matrix: Tensor, class_names: Sequence[str] | None) -> Figure:
    """Draw all fields: coloured by the share of the class's images, with numbers of images for few classes.

    Args:
        matrix: Images by class and prediction, (C, C), on the CPU.
        class_names: Names of all classes, if known.
    """
    classes = len(matrix)
    shares = matrix.double() / matrix.sum(1, keepdim=True).clamp_min(1)
    side = 2.6 + 0.42 * classes if classes <= MOST_NUMBERS else 3 + 0.24 * classes
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    # By the root, so that rare confusions are seen too.
    image = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    if classes <= MOST_NUMBERS:
        for row, column in matrix.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.3 else "black"
            number = f"{int(matrix[row, column])}"
            axes.text(column, row, number, ha="center", va="center", color=colour, fontsize=8)
    names = [class_name(index, class_names) for index in range(classes)]
    is_short = max(map(len, names)) <= 2
    axes.set_xticks(range(classes), names, rotation=0 if is_short else 90, fontsize=8)
    axes.set_yticks(range(classes), names, fontsize=8)
    correct, total = int(matrix.diagonal().sum()), int(matrix.sum())
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(f"{correct:,} of {total:,} images recognised ({correct / max(total, 1):.1%})", fontsize=10)
    figure.colorbar(image, label="share of the class's images", shrink=0.7, format="{x:.0%}")
    return figure


def draw_pairs(matrix: Tensor, class_names: Sequence[str] | None) -> Figure:
    """Draw the most frequent confusions as bars.

    Args:
        matrix: Images by class and prediction, (C, C), on the CPU.
        class_names: Names of all classes, if known.
    """
    pairs = most_confused(matrix, PAIRS)
    mistakes = int(matrix.sum() - matrix.diagonal().sum())
    figure = Figure(figsize=(8, 1.4 + 0.24 * max(len(pairs), 1)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(pairs)), [pair.share for pair in pairs], color="C0")
    for row, pair in enumerate(pairs):
        axes.annotate(
            f"{pair.images:,}", (pair.share, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
        )
    labels = [f"{class_name(pair.target, class_names)} → {class_name(pair.prediction, class_names)}" for pair in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set(xlabel="share of the true class's images (number of images beside the bar)", ylim=(len(pairs) - 0.4, -0.6))
    axes.set_xlim(0, 1.15 * max((pair.share for pair in pairs), default=1))
    axes.set_title(f"most frequent confusions (true → predicted) of {mistakes:,} mistakes", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure
