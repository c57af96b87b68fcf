"""Published accuracy against measured throughput, as a picture like the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.accuracy import published
from benchmarks.measurement import Measurement

PANEL_INCHES = (6.0, 5.0)

Network = tuple[str, tuple[int, int]]
"""timm's name, and height and width in pixels."""

OURS, OTHERS = "C3", "0.35"
"""Colours of MobileMamba and of other networks."""


def draw(
    measurements: Sequence[Measurement], title: str, others: Mapping[str, Mapping[Network, float]] | None = None
) -> Figure:
    """Draw one panel for each form and batch size.

    A network has a filled marker where it was trained from labels alone and a hollow one where with a teacher, at the
    accuracy that its paper reports for the measured image size; networks without such a figure are left out.

    Args:
        measurements: What to show.
        title: Device and threads.
        others: Further panels by title: images/s of networks.
    """
    panels: dict[str, dict[Network, float]] = {}
    for one in measurements:
        panel = panels.setdefault(f"{one.form}, batch {one.batch_size}", {})
        panel[one.network, one.image_size] = one.images_per_second
    panels |= {name: dict(panel) for name, panel in (others or {}).items()}
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(panels), height), layout="constrained")
    figure.suptitle(title)
    for axes, (name, shown) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _draw_panel(axes, shown)
        axes.set(title=name, xlabel="images/s", ylabel="published ImageNet-1k top-1, percent")
    faces = {"from labels alone": OTHERS, "with a teacher": "white"}
    handles = [
        Line2D([], [], marker="o", linestyle="", color=OTHERS, markerfacecolor=face, label=label)
        for label, face in faces.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _draw_panel(axes: Axes, rates: Mapping[Network, float]) -> None:
    """Draw the points of one panel and their names, in turn above and below the points from left to right."""
    for number, ((network, image_size), x) in enumerate(sorted(rates.items(), key=lambda item: item[1])):
        colour = OURS if network.startswith("mobilemamba") else OTHERS
        faces = zip(published(network, image_size), (colour, "white"), strict=True)
        known = [(top1, face) for top1, face in faces if top1 is not None]
        if not known:
            continue
        heights = [top1 for top1, _ in known]
        axes.plot([x] * len(known), heights, color=colour, linewidth=0.8, alpha=0.6)
        for top1, face in known:
            axes.plot(x, top1, "o", color=colour, markerfacecolor=face)
        y, offset, alignment = (max(heights), 6, "bottom") if number % 2 else (min(heights), -6, "top")
        name = network.split(".")[0].removeprefix("mobilemamba_").upper() if colour == OURS else network.split(".")[0]
        axes.annotate(
            name, (x, y), (0, offset), textcoords="offset points", ha="center", va=alignment, fontsize=8, color=colour
        )
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.15)
    axes.grid(alpha=0.3)
