"""From a fused network to the graph that every format is written from, and the shapes that the graph takes."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mobilemamba.export.comparison import Shape
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import random_images
from mobilemamba.scan.parallel import DYNAMIC_SIZE_DOUBLINGS

TOP1_IMAGES = 16
"""Images over which top classes are compared at the file's own size."""

MOST_LOGITS = 2**26
"""Logits that are compared at once, beyond which there are fewer images: of pixels there are many in each."""


def trace(network: nn.Module, channels: int, image_size: tuple[int, int], options: ExportOptions) -> ExportedProgram:
    """Trace a fused network in eval mode.

    Args:
        network: Maps images (B, C, H, W) to logits, or one image to detections.
        channels: Channels C of the images.
        image_size: Height and width in pixels to trace at, see :func:`tracing_size`.
        options: Which dimensions stay open.
    """
    axes = ((0,) if options.dynamic_batch else ()) + ((2, 3) if options.dynamic_size else ())
    # The tracer takes a dimension of size one for a constant, in the images and in every feature map.
    images = random_images((2 if options.dynamic_batch else 1, channels, *image_size))
    with torch.no_grad():
        return torch.export.export(network, (images,), dynamic_shapes=(dict.fromkeys(axes, Dim.DYNAMIC) or None,))


def tracing_size(image_size: tuple[int, int], smallest: int, options: ExportOptions) -> tuple[int, int]:
    """Return the height and width to trace at: large enough for open ones that no feature map has a side of one."""
    if not options.dynamic_size:
        return image_size
    # At four times the smallest size the last map has four pixels a side, its wavelet bands two.
    return max(image_size[0], 4 * smallest), max(image_size[1], 4 * smallest)


def largest_dynamic_size(stem_stride: int) -> int:
    """Return the largest height and width in pixels that a graph of dynamic size answers rightly.

    The number of steps of its scan is written in the graph, so its reach is limited.

    Args:
        stem_stride: Pixels per position of the first feature map.
    """
    return int(stem_stride * 2**DYNAMIC_SIZE_DOUBLINGS)


def promised_shapes(
    channels: int, image_size: tuple[int, int], smallest: int, options: ExportOptions, logits: int = 1
) -> tuple[Shape, ...]:
    """Return shapes that sample everything a file promises to take.

    Args:
        channels: Channels of the images.
        image_size: Height and width in pixels that the file is made for.
        smallest: Smallest height and width in pixels that a file of dynamic size takes.
        options: Which dimensions are open.
        logits: Logits of an image.
    """
    height, width = image_size
    count = min(max(MOST_LOGITS // max(logits, 1), 2), TOP1_IMAGES)
    batches = [1, 3, count] if options.dynamic_batch else [1] * count
    shapes = [(batch, channels, height, width) for batch in batches]
    if options.dynamic_size:
        batch = 2 if options.dynamic_batch else 1
        odd = smallest + smallest // 2 + 3  # neither even nor a multiple of any stride
        sizes = [(smallest, smallest), (smallest, odd), (height + odd, width), (height, width + odd)]
        shapes += [(batch, channels, *size) for size in sizes]
    return tuple(shapes)
