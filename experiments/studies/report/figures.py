"""The report as pictures: accuracy against throughput, effect sizes, and curves of training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.studies.report.arms import speed_column
from experiments.studies.report.paired import CONFIDENCE
from experiments.studies.report.results import EMA, LOSS, RAW, StudyResults

MARKERS = "osD^vP*X"

MARKED_EPOCHS = 10
"""Approximate number of markers of a curve."""

TOP1_LABEL = "validation top-1, percent"


def draw_accuracy_throughput(arms: pd.DataFrame, devices: Sequence[str]) -> Figure:
    """Draw accuracy against throughput on each device, with arrows from the base arm.

    Args:
        arms: The table of the arms; those without accuracy are left out.
        devices: Devices of the speeds; without any, accuracy is drawn against multiply-accumulates.
    """
    panels: list[str | None] = [*devices] or [None]
    figure = Figure(figsize=(5.5 * len(panels) + 2.5, 4.5), layout="constrained")
    for axes, device in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if device is None:
            _draw_points(axes, arms, arms["macs"] / 1e9)
            axes.set(xlabel="multiply-accumulates, 1e9 (speed was not measured)", ylabel=TOP1_LABEL)
        else:
            _draw_points(axes, arms, arms[speed_column("images_per_second", device)])
            axes.set(xlabel="images per second", ylabel=TOP1_LABEL)
            axes.set_title(device, fontsize="small")
        axes.margins(0.1)
        axes.grid(alpha=0.3)
    _draw_legend(figure)
    return figure


def draw_effects(study: StudyResults, arms: pd.DataFrame) -> Figure:
    """Draw the difference of each arm from the base, with its confidence interval.

    Args:
        study: The study.
        arms: The table of its arms.
    """
    compared = arms[arms["difference"].notna()]
    figure = Figure(figsize=(8, 1.6 + 0.4 * max(len(compared), 1)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    if study.validation_images is not None:
        one = 100 / study.validation_images
        axes.axvspan(-one, one, color="0.9", label="less than one image")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for position, arm in enumerate(compared.itertuples()):
        color = "C0" if arm.is_distinguishable else "0.5"
        if pd.isna(arm.difference_low):
            axes.plot(arm.difference, position, "o", color=color, markerfacecolor="white")
        else:
            axes.plot((arm.difference_low, arm.difference_high), [position, position], color=color)
            axes.plot(arm.difference, position, "o", color=color)
    labels = [f"{arm.Index} ({arm.pairs})" for arm in compared.itertuples()]
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


def draw_curves(study: StudyResults) -> Figure:
    """Draw accuracy and training loss over epochs: the mean of an arm's finished runs, and their range as a band.

    Args:
        study: The study.
    """
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    for number, arm in enumerate(study.arms):
        curves = study.curves[study.curves["arm"] == arm.name]
        averaged = curves[EMA].notna().any()
        _draw_curve(accuracy, arm.name, number, 100 * mean_and_range(curves, EMA if averaged else RAW))
        _draw_curve(loss, arm.name, number, mean_and_range(curves, LOSS))
    accuracy.set(xlabel="epoch", ylabel=TOP1_LABEL, title="averaged weights, raw ones in arms without")
    loss.set(xlabel="epoch", ylabel="training loss, nats per image", title="mean and range over seeds")
    for axes in (accuracy, loss):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw_legend(figure)
    return figure


def mean_and_range(curves: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return mean, smallest and largest value (mean, min, max) of a curve over an arm's runs, by epoch.

    Args:
        curves: Curves of the arm.
        name: Name of the curve. Missing epochs of a run are ignored; of several values in one epoch the last counts.
    """
    last = curves.groupby(["seed", "epoch"])[name].last().dropna()
    return last.groupby("epoch").agg(["mean", "min", "max"])


def _draw_curve(axes: Axes, label: str, number: int, curve: pd.DataFrame) -> None:
    if curve.empty:
        return
    color, marker = _style(number)
    every = max(1, len(curve) // MARKED_EPOCHS)
    axes.plot(curve.index, curve["mean"], color=color, marker=marker, markersize=4, markevery=every, label=label)
    axes.fill_between(curve.index, curve["min"], curve["max"], color=color, alpha=0.15, linewidth=0)


def _draw_points(axes: Axes, arms: pd.DataFrame, abscissa: pd.Series) -> None:
    averaged = arms["top1_ema_mean"].notna()
    top1 = arms["top1_ema_mean"].where(averaged, arms["top1_raw_mean"])
    deviations = arms["top1_ema_deviation"].where(averaged, arms["top1_raw_deviation"])
    points = list(zip(arms.index, arms["base"], abscissa, top1, deviations, strict=True))
    base = next((x, y) for _, is_base, x, y, _ in points if is_base)
    for number, (name, is_base, x, y, deviation) in enumerate(points):
        if math.isnan(x) or math.isnan(y):
            continue
        color, marker = _style(number)
        label = f"{name} (base)" if is_base else name
        error = None if math.isnan(deviation) else deviation
        axes.errorbar(x, y, error, color=color, marker=marker, linestyle="", capsize=3, label=label)
        if math.dist(base, (x, y)) > 0:  # NaN without a result of the base
            arrow = {"arrowstyle": "->", "color": color, "alpha": 0.5, "shrinkA": 4, "shrinkB": 5}
            axes.annotate("", (x, y), base, arrowprops=arrow)


def _draw_legend(figure: Figure) -> None:
    # Names beside the points would overlap.
    found = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if found:
        figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False)


def _style(number: int) -> tuple[str, str]:
    """Return colour and marker of an arm; both together differ for many arms."""
    colors = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    return colors[number % len(colors)], MARKERS[number % len(MARKERS)]
