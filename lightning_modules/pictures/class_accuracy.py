"""Accuracy of each class: bars for a few classes, their distribution for many."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.pictures.names import class_name

MOST_BARS = 40
"""Classes with a bar each; of more, the distribution is drawn."""

BINS = 20


def draw_accuracies(accuracies: Tensor, class_names: Sequence[str] | None) -> Figure:
    """Draw the accuracies of classes.

    Args:
        accuracies: (C,), on the CPU; NaN for classes without images, which are left out.
        class_names: Names of all classes, if known.
    """
    draw = draw_bars if len(accuracies) <= MOST_BARS else draw_distribution
    return draw(accuracies, class_names)


def draw_bars(accuracies: Tensor, class_names: Sequence[str] | None) -> Figure:
    """Draw a bar for each class, the best one first.

    Args:
        accuracies: (C,), on the CPU; NaN for classes without images, which are left out.
        class_names: Names of all classes, if known.
    """
    order = [index for index in accuracies.argsort(descending=True, stable=True).tolist() if accuracies[index] >= 0]
    values = [float(accuracies[index]) for index in order]
    figure = Figure(figsize=(6.5, 1.2 + 0.24 * max(len(order), 1)), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(order)), values, color="C0")
    for row, value in enumerate(values):
        axes.text(1.11, row, f"{value:.1%}", ha="right", va="center", fontsize=8)
    axes.set_yticks(range(len(order)), [class_name(index, class_names) for index in order], fontsize=8)
    _mark_mean(axes, accuracies)
    axes.set(xlim=(0, 1.12), ylim=(len(order) - 0.4, -0.6), xlabel="share of the class's images recognised")
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="x", alpha=0.3)
    return figure


def draw_distribution(accuracies: Tensor, class_names: Sequence[str] | None) -> Figure:
    """Draw how many classes have which accuracy.

    Args:
        accuracies: (C,), on the CPU; NaN for classes without images, which are left out.
        class_names: Not shown.
    """
    present = accuracies[~accuracies.isnan()]
    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.hist(present.numpy(), bins=BINS, range=(0, 1), color="C0", edgecolor="white")
    _mark_mean(axes, accuracies)
    axes.set(xlim=(0, 1), xlabel="share of a class's images recognised", ylabel=f"classes (of {len(present):,})")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="y", alpha=0.3)
    return figure


def _mark_mean(axes: Axes, accuracies: Tensor) -> None:
    mean = float(accuracies.nanmean())
    axes.axvline(mean, color="C3", linestyle="--", linewidth=1.2)
    axes.set_title(f"mean of the classes {mean:.1%} (dashed)", fontsize=10)
