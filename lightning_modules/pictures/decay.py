"""Draws the decay lengths of each block's scan beside the size of its feature map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from lightning_modules.scan_memory import ScanDecay

PERCENTILES = (5, 25, 50, 75, 95)
LONGEST = 1e6
"""Longer decay lengths are drawn at this number of pixels; a step size of zero has an infinite one."""
WIDE = 1000
"""Only powers of ten are labelled if the ends of the axis have at least this ratio."""
MOST_VALUES = 1 << 16
"""Percentiles of more values are computed from evenly spaced ones, to save time."""


def draw_decays(decays: Mapping[str, ScanDecay]) -> Figure:
    """Draw the distribution of decay lengths of each block: median, quartiles, and 5 % to 95 %.

    Args:
        decays: By block, at least one.
    """
    figure = Figure(figsize=(7.5, 1.4 + 0.36 * len(decays)), layout="constrained")
    axes = figure.subplots()
    for row, decay in enumerate(decays.values()):
        height, width = decay.map_size
        lowest, lower, median, upper, highest = decay_percentiles(decay)
        axes.plot([lowest, highest], [row, row], color="C0", linewidth=1.5, zorder=1)
        axes.plot([lower, upper], [row, row], color="C0", linewidth=7, solid_capstyle="butt", zorder=2)
        axes.plot(median, row, "o", color="white", markeredgecolor="C0", zorder=3)
        axes.plot(width, row, "|", color="C1", markersize=16, markeredgewidth=2.5)
        axes.plot(height * width, row, "|", color="C3", markersize=16, markeredgewidth=2.5)
    labels = [f"{name}  {decay.map_size[0]}x{decay.map_size[1]}" for name, decay in decays.items()]
    axes.set_yticks(range(len(decays)), labels)
    axes.set_xscale("log", subs=())
    lowest, highest = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < WIDE * lowest else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(ylim=(len(decays) - 0.4, -0.6), xlabel="decay length, pixels of the feature map")
    axes.grid(axis="x", alpha=0.3)
    entries: dict[str, dict[str, Any]] = {
        "5 to 95 %": {"color": "C0", "linewidth": 1.5},
        "quartiles": {"color": "C0", "linewidth": 7},
        "median": {"color": "white", "marker": "o", "markeredgecolor": "C0"},
        "one row of the map": {"color": "C1", "linewidth": 2.5},
        "the whole map": {"color": "C3", "linewidth": 2.5},
    }
    for label, style in entries.items():
        axes.plot([], [], label=label, **style)
    figure.legend(loc="outside upper center", ncols=len(entries), fontsize=8, handlelength=1.2)
    return figure


def decay_percentiles(decay: ScanDecay) -> list[float]:
    """Return percentiles 5, 25, 50, 75 and 95 of a block's decay lengths, in pixels."""
    lengths = decay.decay_lengths.flatten()
    lengths = lengths[:: 1 + len(lengths) // MOST_VALUES].clamp(max=LONGEST).cpu()
    return np.percentile(lengths.numpy(), PERCENTILES).tolist()
