"""A picture of receptive fields: one panel per network, all in the same colours."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lightning_modules.receptive_field.extent import measure_extent

DECADES = 4
"""Powers of ten of the colour scale; smaller contributions have the lowest colour."""


def draw(maps: Sequence[Tensor], titles: Sequence[str], description: str) -> Figure:
    """Draw maps side by side on one logarithmic scale, each with the square that holds half of its contributions.

    Args:
        maps: Contributions (H, W) of each network, in float64.
        titles: Names of the networks.
        description: Text below the panels.
    """
    shares = [contributions / contributions.sum() for contributions in maps]
    largest = max(share.max().item() for share in shares)
    smallest = largest / 10**DECADES
    figure = Figure(figsize=(3.4 * len(maps) + 1, 4.2), layout="constrained")
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, share, title in zip(panels, shares, titles, strict=True):
        # Zeros, which have no logarithm, get the lowest colour.
        image = axes.imshow(share.clamp_min(smallest).numpy(), norm=LogNorm(smallest, largest), cmap="inferno")
        extent = measure_extent(share, radii=(), shares=(0.5,))
        (square,), (row, column) = extent.squares, extent.centre
        corner = column - square.side / 2, row - square.side / 2
        axes.add_patch(Rectangle(corner, square.side, square.side, fill=False, edgecolor="cyan", linewidth=1.2))
        axes.set_title("\n".join(textwrap.wrap(title, 36)), fontsize=9)
        axes.set_xlabel(f"50 % within {square.side} x {square.side} pixels", fontsize=9)
        axes.set(xticks=[], yticks=[])
    colours = figure.colorbar(image, ax=panels.tolist(), label="share of the contribution per pixel", shrink=0.8)
    colours.minorticks_off()  # they have no labels, but would double the drawing time
    figure.supxlabel(description, fontsize=9)
    return figure
