"""Published accuracy against measured latency, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.accuracy import published
from benchmarks.latency import Latency

PANEL_INCHES = (6.0, 5.0)

OURS, OTHERS = "C3", "0.35"
"""Colours of MobileMamba and of other networks."""


def draw(latencies: Sequence[Latency], title: str) -> Figure:
    """Draw one panel for each form and batch size.

    A network has a filled marker where it was trained from labels alone and a hollow one where with a teacher, at the
    accuracy that its paper reports for the measured image size; networks without such a figure are left out.

    Args:
        latencies: What was measured.
        title: Device and threads.
    """
    panels = list(dict.fromkeys((latency.form, latency.batch_size) for latency in latencies))
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(panels), height), layout="constrained")
    figure.suptitle(title)
    for axes, (form, batch_size) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = [latency for latency in latencies if (latency.form, latency.batch_size) == (form, batch_size)]
        _draw_panel(axes, shown)
        axes.set(
            title=f"{form}, batch {batch_size}",
            xlabel="milliseconds per batch (minimum)",
            ylabel="published ImageNet-1k top-1, percent",
        )
    figure.legend(
        handles=[
            Line2D([], [], marker="o", linestyle="", color=OTHERS, label="from labels alone"),
            Line2D([], [], marker="o", linestyle="", color=OTHERS, markerfacecolor="white", label="with a teacher"),
        ],
        loc="outside lower center",
        ncols=2,
    )
    return figure


def _draw_panel(axes: Axes, latencies: Sequence[Latency]) -> None:
    """Draw the points of one panel and their names, in turn above and below the points from left to right."""
    for number, latency in enumerate(sorted(latencies, key=lambda latency: latency.timing.minimum)):
        figures = published(latency.network, latency.image_size)
        if figures is None:
            continue
        colour = OURS if latency.network.startswith("mobilemamba") else OTHERS
        x, both = latency.timing.minimum, (figures.top1, figures.top1_distilled)
        known = [top1 for top1 in both if top1 is not None]
        axes.plot([x] * len(known), known, color=colour, linewidth=0.8, alpha=0.6)
        for top1, face in zip(both, (colour, "white"), strict=True):
            if top1 is not None:
                axes.plot(x, top1, "o", color=colour, markerfacecolor=face)
        y, offset, alignment = (max(known), 6, "bottom") if number % 2 else (min(known), -6, "top")
        name = latency.network.split(".")[0]
        axes.annotate(
            name, (x, y), (0, offset), textcoords="offset points", ha="center", va=alignment, fontsize=8, color=colour
        )
    axes.margins(x=0.2, y=0.15)
    axes.grid(alpha=0.3)
