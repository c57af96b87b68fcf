"""Draws training images as the network sees them, with their mixed labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_modules.pictures.class_results import class_name
from mobilemamba.metadata import ModelMetadata

MOST_NAMES = 3
"""Classes named below an image."""

LONGEST_NAME = 16
"""Characters of a name, so that it does not overlap the next image's."""

LEAST_SHARE = 0.005
"""Smaller shares of a class, without label smoothing, would be shown as 0 %."""

COLUMNS = 4
CELL = 1.7
"""Side of an image in inches."""
MARGIN = 0.07
"""Around an image in inches."""
LINE = 0.14
"""Height of a line of text in inches."""
TITLE = 0.45
"""Height of the title in inches."""


def mixed_labels(target: Tensor, smoothing: float) -> list[tuple[int, float]]:
    """Return the classes that an image shows and their shares of its label, largest first.

    Classes that have only the share of label smoothing are left out.

    Args:
        target: Class probabilities (num_classes,), or a class index ().
        smoothing: Probability mass that was spread evenly over all classes.
    """
    if target.ndim == 0:
        return [(int(target), 1.0)]
    shares = target.float()
    shown = (shares > smoothing / len(shares) + LEAST_SHARE).nonzero().flatten().tolist()
    return sorted(((index, shares[index].item()) for index in shown), key=lambda pair: -pair[1])


def label_text(labels: Sequence[tuple[int, float]], class_names: Sequence[str] | None) -> str:
    """Return a line for each class of :func:`mixed_labels`, and one for the rest if it is at least half a percent."""
    named = labels[:MOST_NAMES]
    lines = [f"{class_name(index, class_names, LONGEST_NAME)}: {share:.0%}" for index, share in named]
    rest = 1 - sum(share for _, share in named)
    return "\n".join([*lines, *([f"others: {rest:.0%}"] if rest >= LEAST_SHARE else [])])


def denormalised(images: Tensor, metadata: ModelMetadata) -> Tensor:
    """Return colours in [0, 1] of images (B, C, H, W) that were normalised with the metadata's mean and std."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (metadata.mean, metadata.std))
    return (images.float() * std + mean).clamp(0, 1)


def draw_samples(images: Tensor, targets: Tensor, metadata: ModelMetadata, title: str, smoothing: float) -> Figure:
    """Draw images in a grid, each with its labels below.

    Args:
        images: Normalised images (B, C, H, W) of three colours, or of any other number of channels, of which the first
            is drawn in grey.
        targets: Class probabilities (B, num_classes), or class indices (B,).
        metadata: How they are normalised, and the names of classes.
        title: Written above.
        smoothing: Probability mass of the labels that was spread evenly over all classes.
    """
    colours = denormalised(images, metadata).cpu()
    if colours.shape[1] != 3:
        colours = colours[:, :1].expand(-1, 3, -1, -1)
    texts = [label_text(mixed_labels(target, smoothing), metadata.class_names) for target in targets.cpu()]
    columns = min(COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    cell_height = CELL + (1 + max(text.count("\n") + 1 for text in texts)) * LINE
    # Wide enough for the title.
    width, height = max(columns, 3) * CELL, TITLE + rows * cell_height
    figure = Figure(figsize=(width, height))
    figure.text(0.5, 1 - TITLE / 2 / height, title, ha="center", va="center", fontsize=9)
    # One pair of axes in inches for all images takes half the time of a pair for each.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    side = CELL - 2 * MARGIN
    for index, (colour, text) in enumerate(zip(colours, texts, strict=True)):
        row, column = divmod(index, columns)
        left, bottom = column * CELL + MARGIN, height - TITLE - row * cell_height - side
        axes.imshow(colour.permute(1, 2, 0).numpy(), extent=(left, left + side, bottom, bottom + side))
        axes.text(left, bottom - MARGIN, text, va="top", fontsize=7.5, linespacing=1.15)
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    return figure
