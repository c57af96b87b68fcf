"""Depthwise convolution with SiLU behind it as one kernel, and its gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from mobilemamba import plain
from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.operators import Shape, array, empty_map, pixels, register
from mobilemamba.kernels.threads import parts_of, run
from mobilemamba.kernels.vector_math import ONE, ZERO, Floats, exponentials, sigmoid


def depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel with its own kernel, at stride 1 and with zeros around the map, and take SiLU.

    Args:
        x: (B, C, H, W) in float32.
        weight: (C, 1, k, k), k odd.
        bias: (C,).

    Returns:
        (B, C, H, W).
    """
    y = empty_map(x)
    run(_silu, [pixels(x), _taps(weight), array(bias), pixels(y)], len(x) * x.shape[2], y.numel())
    return y


def depthwise_silu_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the three arguments of :func:`depthwise_silu`, given that of its result."""
    dx, parts, size, channels = empty_map(x), parts_of(len(x)), weight.shape[-1], len(weight)
    dtaps, dbias = x.new_zeros(parts, size, size, channels), x.new_zeros(parts, channels)
    arguments = [pixels(x), _taps(weight), array(bias), pixels(dy), pixels(dx), dtaps.numpy(), dbias.numpy()]
    run(_silu_backward, arguments, parts, x.numel())
    return dx, dtaps.sum(0).permute(2, 0, 1).unsqueeze(1).contiguous(), dbias.sum(0)


def _flops(x_shape: Shape, weight_shape: Shape, *others: Any) -> int:
    return 2 * math.prod(x_shape) * math.prod(weight_shape[2:])


def _taps(weight: Tensor) -> Floats:
    return array(weight.permute(1, 2, 3, 0).squeeze(0))  # (k, k, C)


KERNEL = register(depthwise_silu, depthwise_silu_backward, plain.depthwise_silu, maps=1, flops=_flops)


@in_order
def convolve_pixel(
    x: Floats,  # (H, W, C)
    taps: Floats,  # (k, k, C)
    row: int,
    column: int,
    y: Floats,  # (C,), added to
) -> None:
    """Add the depthwise convolution of a map, at one pixel of it."""
    height, width, channels = x.shape
    size = len(taps)
    top, left = row - size // 2, column - size // 2
    end = min(size, width - left)
    for m in range(max(0, -top), min(size, height - top)):
        n = max(0, -left)
        while n + 2 < end:  # three at a time: y is read and written less often
            x0, x1, x2 = x[top + m, left + n], x[top + m, left + n + 1], x[top + m, left + n + 2]
            tap0, tap1, tap2 = taps[m, n], taps[m, n + 1], taps[m, n + 2]
            for d in range(channels):
                y[d] += tap0[d] * x0[d] + tap1[d] * x1[d] + tap2[d] * x2[d]
            n += 3
        while n < end:
            x0, tap0 = x[top + m, left + n], taps[m, n]
            for d in range(channels):
                y[d] += tap0[d] * x0[d]
            n += 1


@in_order
def correlate(
    x: Floats,  # what was convolved, (H, W, C)
    dy: Floats,  # gradient of the result, (H, W, C)
    dtaps: Floats,  # (k, k, C), added to
) -> None:
    """Add the gradient of the taps of a depthwise convolution of one map."""
    size = len(dtaps)
    for m in range(size):
        for n in range(size):
            _add_products(x, dy, m - size // 2, n - size // 2, dtaps[m, n])


@in_order
def _add_products(
    x: Floats,  # (H, W, C)
    dy: Floats,  # (H, W, C)
    below: int,  # by so many rows x is ahead; they may be negative
    right: int,  # by so many columns
    total: Floats,  # (C,), added to
) -> None:
    """Add up the products of the pixels of one map with those some rows below and columns to the right in another."""
    height, width, channels = x.shape
    end = min(width, width - right)
    for i in range(max(0, -below), min(height, height - below)):
        j = max(0, -right)
        while j + 1 < end:  # two at a time: the sum is read and written less often
            x0, x1, dy0, dy1 = x[i + below, j + right], x[i + below, j + 1 + right], dy[i, j], dy[i, j + 1]
            for d in range(channels):
                total[d] += x0[d] * dy0[d] + x1[d] * dy1[d]
            j += 2
        if j < end:
            x0, dy0 = x[i + below, j + right], dy[i, j]
            for d in range(channels):
                total[d] += x0[d] * dy0[d]


@in_order
def _silu(
    x: Floats,  # (B, H, W, C)
    taps: Floats,  # (k, k, C)
    bias: Floats,  # (C,)
    y: Floats,  # (B, H, W, C), written
    first: int,
    last: int,
) -> None:
    """Convolve the rows of pixels from the first to before the last; those of an image follow each other."""
    _, height, width, channels = x.shape
    value = np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for task in range(first, last):
        image, row = task // height, task % height
        for column in range(width):
            value[:] = bias
            convolve_pixel(x[image], taps, row, column, value)
            exponentials(value, factor, power)
            y_row = y[image, row, column]
            for d in range(channels):
                y_row[d] = value[d] * sigmoid(value[d], factor[d] * power[d])


@in_order
def _silu_backward(
    x: Floats,  # (B, H, W, C)
    taps: Floats,  # (k, k, C)
    bias: Floats,  # (C,)
    dy: Floats,  # (B, H, W, C)
    dx: Floats,  # (B, H, W, C), written
    dtaps: Floats,  # (parts, k, k, C), added to
    dbias: Floats,  # (parts, C), added to
    first: int,
    last: int,
) -> None:
    """Write the gradients of the images of the parts from the first to before the last."""
    images, height, width, channels = x.shape
    parts = len(dtaps)
    turned = taps[::-1, ::-1].copy()
    value = np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    dvalue = np.empty((height, width, channels), np.float32)
    for part in range(first, last):
        dbias_row = dbias[part]
        for image in range(images * part // parts, images * (part + 1) // parts):
            for row in range(height):
                for column in range(width):
                    value[:] = bias
                    convolve_pixel(x[image], taps, row, column, value)
                    exponentials(value, factor, power)
                    dy_row, dvalue_row = dy[image, row, column], dvalue[row, column]
                    for d in range(channels):
                        slope = sigmoid(value[d], factor[d] * power[d])
                        dvalue_row[d] = dy_row[d] * slope * (ONE + value[d] * (ONE - slope))
                        dbias_row[d] += dvalue_row[d]
            for row in range(height):
                for column in range(width):
                    dx[image, row, column] = ZERO
                    convolve_pixel(dvalue, turned, row, column, dx[image, row, column])
            correlate(x[image], dvalue, dtaps[part])
