"""Names beside the points of a picture, where they overlap neither each other nor the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

Place = tuple[tuple[float, float], str, str]

PLACES: tuple[Place, ...] = (
    ((6, 3), "left", "bottom"),
    ((6, -3), "left", "top"),
    ((-6, 3), "right", "bottom"),
    ((-6, -3), "right", "top"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
    ((6, 14), "left", "bottom"),
    ((6, -14), "left", "top"),
    ((-6, 14), "right", "bottom"),
    ((-6, -14), "right", "top"),
    ((0, 18), "center", "bottom"),
    ((0, -18), "center", "top"),
    ((6, 25), "left", "bottom"),
    ((6, -25), "left", "top"),
    ((-6, 25), "right", "bottom"),
    ((-6, -25), "right", "top"),
)
"""Where a name may be, the best place first: offset from its point in typographic points, and alignment."""

MARKER_POINTS = 5
"""Half the side of the square kept free around a point, in typographic points."""


@dataclass(frozen=True)
class Label:
    """A name for a vertical line of one or more points.

    Args:
        name: The name.
        x: Horizontal position.
        values: Vertical positions of the points.
        colour: Of the name.
    """

    name: str
    x: float
    values: tuple[float, ...]
    colour: str


def place_labels(axes: Axes, labels: Sequence[Label], fontsize: float = 8) -> None:
    """Write each name beside its upper point: across no line where that can be, else across lines alone.

    Args:
        axes: Axes with all else already drawn.
        labels: The names.
        fontsize: In typographic points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout decides where points lie
    pixels = MARKER_POINTS * figure.dpi / 72
    taken = [_box(axes, label.x, (value,), pixels) for label in labels for value in label.values]
    lines = [_box(axes, label.x, label.values, pixels) for label in labels]
    for label in sorted(labels, key=lambda label: -len(label.name)):  # long names have the fewest places
        texts = (
            _place(axes, label, place, fontsize, avoided) for avoided in ([*taken, *lines], taken) for place in PLACES
        )
        text = next((text for text in texts if text is not None), None)
        if text is None:
            text = _write(axes, label, PLACES[0], fontsize)
        taken.append(text.get_window_extent())


def _place(axes: Axes, label: Label, place: Place, fontsize: float, avoided: Sequence[Bbox]) -> Annotation | None:
    """Write a name where it lies inside the axes and on nothing of what is to be avoided; return None elsewhere."""
    text = _write(axes, label, place, fontsize)
    box = text.get_window_extent()
    inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
    if inside and not any(box.overlaps(other) for other in avoided):
        return text
    text.remove()
    return None


def _write(axes: Axes, label: Label, place: Place, fontsize: float) -> Annotation:
    offset, horizontal, vertical = place
    text = axes.annotate(
        label.name,
        (label.x, max(label.values)),
        xytext=offset,
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize=fontsize,
        color=label.colour,
    )
    text.set_in_layout(False)  # the layout stays as it was when places were chosen
    return text


def _box(axes: Axes, x: float, values: Sequence[float], pixels: float) -> Bbox:
    """Return what points above each other and the line between them cover, in pixels."""
    (left, low), (_, high) = axes.transData.transform([(x, min(values)), (x, max(values))])
    return Bbox([[left - pixels, low - pixels], [left + pixels, high + pixels]])
