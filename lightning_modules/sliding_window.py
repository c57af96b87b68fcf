"""Segmentation of large images in sliding windows, as in MMSegmentation's test mode "slide"."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def sliding_logits(network: Callable[[Tensor], Tensor], images: Tensor, window: int, stride: int) -> Tensor:
    """Return for each pixel the mean logits of all windows that contain it.

    The last window of a row or column ends at the image's border, so that all windows have the same size.

    Args:
        network: Maps images (B, C, h, w) to logits (B, num_classes, h, w).
        images: (B, C, H, W).
        window: Height and width of a window in pixels; images with a shorter side are used whole along it.
        stride: Pixels between two windows.

    Returns:
        Logits (B, num_classes, H, W).
    """
    height, width = images.shape[-2:]
    tops, lefts = _starts(height, window, stride), _starts(width, window, stride)
    total, counts = None, images.new_zeros(1, 1, height, width)
    for top in tops:
        for left in lefts:
            place = (..., slice(top, top + window), slice(left, left + window))
            logits = network(images[place])
            if total is None:
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[place] += logits
            counts[place] += 1
    assert total is not None  # there is one window at least
    return total / counts.to(total)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Return the first pixels of the windows along one side."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]
