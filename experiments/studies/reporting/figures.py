"""The report as pictures: accuracy against throughput, effect sizes, and curves of training."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.studies.reporting.outcomes import EMA, RAW, ArmOutcome, StudyOutcome
from experiments.studies.reporting.paired import CONFIDENCE
from experiments.studies.reporting.rows import ArmRow

MARKERS = "osD^vP*X"

MARKED_EPOCHS = 10
"""Epochs of a curve that get a marker, about."""

TOP1_LABEL = "validation top-1, percent"


def draw_accuracy_throughput(rows: Sequence[ArmRow], devices: Sequence[str]) -> Figure:
    """Draw accuracy against throughput on each device, with arrows from the base arm.

    Args:
        rows: Of the arms; those without accuracy are left out.
        devices: That speed was measured on; without any, accuracy is drawn against multiply-accumulates.
    """
    panels: list[str | None] = [*devices] or [None]
    figure = Figure(figsize=(5.5 * len(panels) + 2.5, 4.5), layout="constrained")
    for axes, device in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        points = [(number, row, _abscissa(row, device)) for number, row in enumerate(rows)]
        _draw_points(axes, [(number, row, x) for number, row, x in points if x is not None and row.deployed_top1])
        if device is None:
            axes.set(xlabel="multiply-accumulates, 1e9 (speed was not measured)", ylabel=TOP1_LABEL)
        else:
            axes.set(xlabel="images per second", ylabel=TOP1_LABEL)
            axes.set_title(device, fontsize="small")
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    _draw_legend(figure)
    return figure


def draw_effects(study: StudyOutcome, rows: Sequence[ArmRow]) -> Figure:
    """Draw the difference of each arm from the base, with its confidence interval.

    Args:
        study: The study.
        rows: Of its arms.
    """
    compared = [row for row in rows if row.difference is not None]
    figure = Figure(figsize=(8, 1.6 + 0.4 * max(len(compared), 1)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    if study.validation_images is not None:
        one = 100 / study.validation_images
        axes.axvspan(-one, one, color="0.9", label="less than one image")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for position, row in enumerate(compared):
        difference = row.difference
        assert difference is not None
        color = "C0" if difference.is_distinguishable else "0.5"
        if difference.interval is None:
            axes.plot(difference.mean, position, "o", color=color, markerfacecolor="white")
        else:
            axes.plot(difference.interval, [position, position], color=color)
            axes.plot(difference.mean, position, "o", color=color)
    labels = [f"{row.name} ({row.difference.pairs})" for row in compared if row.difference is not None]
    axes.set_yticks(range(len(compared)), labels)
    axes.set_ylim(max(len(compared), 1) - 0.5, -0.5)
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(f"top-1 of the arm minus {study.base}, points")
    axes.set_title(
        f"Mean over pairs of seeds (their number) and {CONFIDENCE:.0%} interval; hollow: no interval\n"
        "blue: distinguishable from zero, Holm's correction; grey: not",
        fontsize="small",
    )
    return figure


def draw_curves(study: StudyOutcome) -> Figure:
    """Draw accuracy and training loss over epochs: the mean of an arm's finished runs, and their range as a band.

    Args:
        study: The study.
    """
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for number, arm in enumerate(study.arms):
        _draw_curve(accuracy, arm, number, EMA if any(EMA in record.curves for record in arm.records) else RAW, 100)
        _draw_curve(loss, arm, number, "train/loss", 1)
    accuracy.set(xlabel="epoch", ylabel=TOP1_LABEL, title="averaged weights, raw ones in arms without")
    loss.set(xlabel="epoch", ylabel="training loss, nats per image", title="mean and range over seeds")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw_legend(figure)
    return figure


def mean_and_range(arm: ArmOutcome, name: str) -> dict[float, tuple[float, float, float]]:
    """Return mean, smallest and largest value of a curve over an arm's finished runs, by epoch.

    Args:
        arm: The arm.
        name: Of the curve. Epochs that a run lacks are taken from the others; of several values in one epoch the last
            counts.
    """
    values: dict[float, list[float]] = {}
    for record in arm.records:
        points = zip(record.curves.get("epoch", []), record.curves.get(name, []), strict=False)
        last = {epoch: value for epoch, value in points if epoch is not None and value is not None}
        for epoch, value in last.items():
            values.setdefault(epoch, []).append(value)
    return {epoch: (statistics.fmean(found), min(found), max(found)) for epoch, found in sorted(values.items())}


def _draw_curve(axes: Axes, arm: ArmOutcome, number: int, name: str, factor: float) -> None:
    points = mean_and_range(arm, name)
    if not points:
        return
    mean, low, high = ([factor * value for value in values] for values in zip(*points.values(), strict=True))
    color, marker = _style(number)
    every = max(1, len(points) // MARKED_EPOCHS)
    axes.plot(list(points), mean, color=color, marker=marker, markersize=4, markevery=every, label=arm.name)
    axes.fill_between(list(points), low, high, color=color, alpha=0.15, linewidth=0)


def _draw_points(axes: Axes, points: Sequence[tuple[int, ArmRow, float]]) -> None:
    base = next(((x, row.deployed_top1.mean) for _, row, x in points if row.is_base and row.deployed_top1), None)
    for number, row, x in points:
        top1 = row.deployed_top1
        assert top1 is not None
        color, marker = _style(number)
        label = f"{row.name} (base)" if row.is_base else row.name
        axes.errorbar(x, top1.mean, top1.deviation, color=color, marker=marker, linestyle="", capsize=3, label=label)
        if base is not None and not math.isclose(math.dist(base, (x, top1.mean)), 0):
            arrow = {"arrowstyle": "->", "color": color, "alpha": 0.5, "shrinkA": 4, "shrinkB": 5}
            axes.annotate("", (x, top1.mean), base, arrowprops=arrow)


def _abscissa(row: ArmRow, device: str | None) -> float | None:
    if device is None:
        return row.macs / 1e9
    return row.speeds[device].throughput if device in row.speeds else None


def _draw_legend(figure: Figure) -> None:
    # Names beside the points would cover each other: arms of one study are alike.
    found = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if found:
        figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False)


def _style(number: int) -> tuple[str, str]:
    """Return colour and marker of an arm; both together differ for many arms."""
    colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return colors[number % len(colors)], MARKERS[number % len(MARKERS)]
