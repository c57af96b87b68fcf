"""Published accuracy against measured throughput, as a picture like the paper's Figure 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.accuracy import published
from benchmarks.measurement import Measurement

PANEL_INCHES = (6.0, 5.0)
COLUMNS = 2

Network = tuple[str, tuple[int, int]]
"""timm's name, and height and width in pixels."""

OURS, OTHERS = "C3", "0.35"
"""Colours of MobileMamba, whose variants are circles with their names, and of other networks."""

MARKERS = "sDv^<>PXph*d8H"
"""Of other networks, in turn."""


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
    networks = dict.fromkeys(network for panel in panels.values() for network in panel)
    peers = [name for name, size in networks if not _is_ours(name) and any(published(name, size))]
    markers = {name: MARKERS[number % len(MARKERS)] for number, name in enumerate(dict.fromkeys(peers))}
    width, height = PANEL_INCHES
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    figure.suptitle(title)
    places = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, shown) in zip(places, panels.items(), strict=False):
        _draw_panel(axes, shown, markers)
        axes.set(title=name, xlabel="images/s", ylabel="published ImageNet-1k top-1, percent")
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    kinds = [("o", OTHERS, "from labels alone"), ("o", "white", "with a teacher")]
    handles = [
        Line2D([], [], marker=marker, linestyle="", color=OTHERS, markerfacecolor=face, label=label)
        for marker, face, label in [*kinds, *((marker, OTHERS, name) for name, marker in markers.items())]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _is_ours(network: str) -> bool:
    return network.startswith("mobilemamba")


def _draw_panel(axes: Axes, rates: Mapping[Network, float], markers: Mapping[str, str]) -> None:
    """Draw the points of one panel, our own with their names."""
    for (network, image_size), x in rates.items():
        colour = OURS if _is_ours(network) else OTHERS
        faces = zip(published(network, image_size), (colour, "white"), strict=True)
        known = [(top1, face) for top1, face in faces if top1 is not None]
        if not known:
            continue
        heights = [top1 for top1, _ in known]
        axes.plot([x] * len(known), heights, color=colour, linewidth=0.8, alpha=0.6)
        for top1, face in known:
            axes.plot(x, top1, markers.get(network, "o"), color=colour, markerfacecolor=face)
        if _is_ours(network):
            name = network.split(".")[0].removeprefix("mobilemamba_").upper()
            place = (x, max(heights))
            axes.annotate(name, place, (0, 6), textcoords="offset points", ha="center", fontsize=8, color=colour)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.2, y=0.15)
    axes.grid(alpha=0.3)
