"""A confusion matrix as pictures and a table.

In this module a matrix counts images by true class and prediction, (C, C), on the CPU, and ``class_names`` are the
names of all classes, if known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from mobilemamba.metadata import readable_name
from mobilemamba.tables import table

Names = Sequence[str] | None

MOST_CLASSES = 40
"""Up to this number classes are drawn one by one; of more, only the most frequent confusions and a distribution."""

MOST_NUMBERS = 20
"""Up to this number of classes every field of the matrix has its number."""

PAIRS = 25
"""Number of confusions drawn if there are many classes."""

WORST = 20
"""Classes in the table."""

LONGEST_NAME = 20
"""Characters of a name in a picture."""


def class_name(index: int, class_names: Names, longest: int = LONGEST_NAME) -> str:
    """Return the name of a class, shortened to so many characters, or its number where no names are known."""
    name = f"class {index}" if class_names is None else printable(class_names[index])
    name = name.split(",")[0].strip() or name  # ImageNet lists synonyms: "tench, Tinca tinca"
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return name.replace("$", r"\$")  # matplotlib would read it as mathematics


def class_accuracies(matrix: Tensor) -> Tensor:
    """Return the share of each class's images that were recognised, (C,); NaN for classes without images."""
    return matrix.diagonal().double() / matrix.sum(1).double()


@dataclass(frozen=True)
class ClassResult:
    """Results of one class; shares in [0, 1], NaN if they are not defined.

    Args:
        name: Readable name.
        images: Number of images of the class.
        recall: Share of them that were recognised: the class's accuracy.
        precision: Share of the images predicted as the class that belong to it.
        f1: Harmonic mean of both.
    """

    name: str
    images: int
    recall: float
    precision: float
    f1: float


def class_results(matrix: Tensor, class_names: Names) -> list[ClassResult]:
    """Return the results of all classes, in their order."""
    correct, images, predicted = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    columns = (correct / images, correct / predicted, 2 * correct / (images + predicted))
    shares = zip(*(column.tolist() for column in columns), strict=True)
    names = [str(index) for index in range(len(matrix))] if class_names is None else map(printable, class_names)
    return [ClassResult(name, count, *of) for name, count, of in zip(names, images.tolist(), shares, strict=True)]


def results_table(results: Sequence[ClassResult]) -> str:
    """Return results as a Markdown table; undefined shares are empty."""

    def percent(share: float) -> str:
        return "" if math.isnan(share) else f"{share:.1%}"

    rows = [
        (
            result.name.replace("|", r"\|"),
            str(result.images),
            *map(percent, (result.recall, result.precision, result.f1)),
        )
        for result in results
    ]
    return table(("class", "images", "recall", "precision", "F1"), rows)


def printable(name: str) -> str:
    """Return a class's readable name in one line of valid UTF-8."""
    return " ".join(readable_name(name).encode("utf-8", "replace").decode().split())


def most_confused(matrix: Tensor, count: int) -> list[tuple[int, int]]:
    """Return pairs of true and predicted class, the most frequent confusions first; only those that happened."""
    mistakes = matrix.clone().fill_diagonal_(0)
    order = mistakes.flatten().argsort(descending=True, stable=True)[:count]
    pairs = (divmod(position, len(matrix)) for position in order.tolist())
    return [pair for pair in pairs if mistakes[pair]]


def worst_classes(matrix: Tensor, class_names: Names, count: int = WORST) -> str:
    """Return the classes with the lowest recall as a Markdown table, with their most frequent wrong prediction.

    Classes without images are left out.
    """
    names = [result.name.replace("|", r"\|") for result in class_results(matrix, class_names)]
    accuracies, totals = class_accuracies(matrix), matrix.sum(1)
    mistakes = matrix.clone().fill_diagonal_(0)
    present = totals.nonzero().flatten()
    rows = []
    for target in present[accuracies[present].argsort(stable=True)][:count].tolist():
        total, images, prediction = int(totals[target]), int(mistakes[target].max()), int(mistakes[target].argmax())
        taken_for = f"{names[prediction]} ({images / total:.0%})" if images else ""
        rows.append((names[target], str(total), f"{float(accuracies[target]):.1%}", taken_for))
    return table(("class", "images", "recognised", "mostly taken for"), rows)


def draw_confusion(matrix: Tensor, class_names: Names) -> Figure:
    """Draw the whole matrix of a few classes, or the most frequent confusions of many."""
    return (_draw_matrix if len(matrix) <= MOST_CLASSES else _draw_pairs)(matrix, class_names)


def _draw_matrix(matrix: Tensor, class_names: Names) -> Figure:
    """Draw all fields: coloured by the share of the class's images, with numbers of images for few classes."""
    classes = len(matrix)
    shares = matrix.double() / matrix.sum(1, keepdim=True).clamp_min(1)
    side = 2.6 + 0.42 * classes if classes <= MOST_NUMBERS else 3 + 0.24 * classes
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    # The square root makes rare confusions visible.
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


def _draw_pairs(matrix: Tensor, class_names: Names) -> Figure:
    """Draw the most frequent confusions as bars."""
    pairs, totals = most_confused(matrix, PAIRS), matrix.sum(1)
    shares = [int(matrix[pair]) / int(totals[pair[0]]) for pair in pairs]
    labels = [" → ".join(class_name(index, class_names) for index in pair) for pair in pairs]
    figure, axes = _bars(shares, labels, width=8)
    for row, pair in enumerate(pairs):
        images = f"{int(matrix[pair]):,}"
        place = (shares[row], row)
        axes.annotate(images, place, xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_xlabel("share of the true class's images (number of images beside the bar)")
    axes.set_xlim(0, 1.15 * max(shares, default=1))
    mistakes = int(matrix.sum() - matrix.diagonal().sum())
    axes.set_title(f"most frequent confusions (true → predicted) of {mistakes:,} mistakes", fontsize=10)
    return figure


def draw_accuracies(accuracies: Tensor, class_names: Names) -> Figure:
    """Draw a bar for each of a few classes, the best one first, or the distribution of many classes' accuracies.

    Args:
        accuracies: (C,), on the CPU; NaN for classes without images, which are left out.
        class_names: Names of all classes, if known.
    """
    if len(accuracies) <= MOST_CLASSES:
        order = accuracies.argsort(descending=True, stable=True).tolist()
        order = [index for index in order if accuracies[index] >= 0]
        values = accuracies[order].tolist()
        figure, axes = _bars(values, [class_name(index, class_names) for index in order], width=6.5)
        for row, value in enumerate(values):
            axes.text(1.11, row, f"{value:.1%}", ha="right", va="center", fontsize=8)
        axes.set(xlim=(0, 1.12), xlabel="share of the class's images recognised")
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    else:
        present = accuracies[~accuracies.isnan()]
        figure = Figure(figsize=(6.5, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.hist(present.numpy(), bins=20, range=(0, 1), color="C0", edgecolor="white")
        axes.set(xlim=(0, 1), xlabel="share of a class's images recognised", ylabel=f"classes (of {len(present):,})")
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.grid(axis="y", alpha=0.3)
    mean = float(accuracies.nanmean())
    axes.axvline(mean, color="C3", linestyle="--", linewidth=1.2)
    axes.set_title(f"mean of the classes {mean:.1%} (dashed)", fontsize=10)
    return figure


def _bars(shares: Sequence[float], labels: Sequence[str], width: float) -> tuple[Figure, Axes]:
    """Return a figure with labelled bars from top to bottom; width in inches."""
    figure = Figure(figsize=(width, 1.3 + 0.24 * max(len(shares), 1)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(shares)), shares, color="C0")
    axes.set_yticks(range(len(shares)), labels, fontsize=8)
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="x", alpha=0.3)
    return figure, axes
