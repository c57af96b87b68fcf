"""The order in which a scan visits the pixels of a map."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@functools.lru_cache(maxsize=64)
def scan_order(directions: int, height: int, width: int) -> Integers:
    """Return pixel numbers, row by row, in the order of each scan, (K, H * W).

    Args:
        directions: K, the first of: raster order, its reverse, column-major order, its reverse.
        height: H.
        width: W.
    """
    raster = np.arange(height * width)
    columns = raster.reshape(height, width).T.flatten()
    return np.stack([raster, raster[::-1], columns, columns[::-1]][:directions])
