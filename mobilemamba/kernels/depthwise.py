"""Depthwise convolution with SiLU behind it as one kernel, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.threads import parts_of, run
from mobilemamba.kernels.vector_math import ONE, ZERO, Floats, exponential, sigmoid, to_power


@torch.library.custom_op("mobilemamba::depthwise_silu_cpu", mutates_args=(), device_types="cpu")
def depthwise_silu_op(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel with its own kernel, at stride 1 and with zeros around the map, and take SiLU.

    Args:
        x: (G, H, W, C) in float32.
        weight: (C, 1, k, k), k odd.
        bias: (C,).

    Returns:
        (G, H, W, C).
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    run(_silu, [*_arrays(x, weight, bias), y.numpy()], len(x) * x.shape[1], y.numel())
    return y


@depthwise_silu_op.register_fake
def _result(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("mobilemamba::depthwise_silu_cpu_backward", mutates_args=(), device_types="cpu")
def depthwise_silu_op_backward(dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the three arguments of :func:`depthwise_silu_op`.

    Args:
        dy: Gradient of its result, (G, H, W, C).
        x: (G, H, W, C).
        weight: (C, 1, k, k).
        bias: (C,).
    """
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    parts, size, channels = parts_of(len(x)), weight.shape[-1], len(weight)
    dtaps, dbias = x.new_zeros(parts, size, size, channels), x.new_zeros(parts, channels)
    outputs = [t.numpy() for t in (dx, dtaps, dbias)]
    run(_silu_backward, [*_arrays(x, weight, bias), dy.contiguous().numpy(), *outputs], parts, x.numel())
    return dx, dtaps.sum(0).permute(2, 0, 1).unsqueeze(1).contiguous(), dbias.sum(0)


@depthwise_silu_op_backward.register_fake
def _gradients(dy: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in arguments)


@register_flop_formula(torch.ops.mobilemamba.depthwise_silu_cpu)
def _flops(x_shape: Sequence[int], weight_shape: Sequence[int], *others: Any, **_: Any) -> int:
    return 2 * math.prod(x_shape) * math.prod(weight_shape[2:])


@register_flop_formula(torch.ops.mobilemamba.depthwise_silu_cpu_backward)
def _backward_flops(dy_shape: Sequence[int], *shapes: Sequence[int], **_: Any) -> int:
    """Return the count of the forward pass, which is repeated, and of both gradients."""
    return 3 * _flops(*shapes)


def _arrays(x: Tensor, weight: Tensor, bias: Tensor) -> list[Floats]:
    taps = weight.permute(1, 2, 3, 0).squeeze(0)  # (k, k, C)
    return [t.detach().contiguous().numpy() for t in (x, taps, bias)]


@in_order
def convolve_pixel(x: Floats, taps: Floats, row: int, column: int, y: Floats) -> None:
    """Add the depthwise convolution of a map, at one pixel of it.

    Args:
        x: (H, W, C).
        taps: (k, k, C).
        row: Of the pixel.
        column: Of the pixel.
        y: (C,), added to.
    """
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
def correlate(x: Floats, dy: Floats, dtaps: Floats) -> None:
    """Add the gradient of the taps of a depthwise convolution of one map.

    Args:
        x: What was convolved, (H, W, C).
        dy: Gradient of the result, (H, W, C).
        dtaps: (k, k, C), added to.
    """
    size = len(dtaps)
    for m in range(size):
        for n in range(size):
            _add_products(x, dy, m - size // 2, n - size // 2, dtaps[m, n])


@in_order
def _add_products(x: Floats, dy: Floats, below: int, right: int, total: Floats) -> None:
    """Add up the products of the pixels of one map with those some rows below and columns to the right in another.

    Args:
        x: (H, W, C).
        dy: (H, W, C).
        below: By so many rows x is ahead; they may be negative.
        right: By so many columns.
        total: (C,), added to.
    """
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
def _silu(x: Floats, taps: Floats, bias: Floats, y: Floats, first: int, last: int) -> None:
    """Convolve some rows of pixels.

    Args:
        x: (G, H, W, C).
        taps: (k, k, C).
        bias: (C,).
        y: (G, H, W, C), written.
        first: Row to begin with: those of an image follow each other.
        last: Row to end before.
    """
    _, height, width, channels = x.shape
    value = np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits = power.view(np.int32)  # the same memory
    for task in range(first, last):
        image, row = task // height, task % height
        for column in range(width):
            value[:] = bias
            convolve_pixel(x[image], taps, row, column, value)
            for d in range(channels):
                factor[d], power[d] = exponential(-abs(value[d]))
            for d in range(channels):
                bits[d] = to_power(bits[d])
            y_row = y[image, row, column]
            for d in range(channels):
                y_row[d] = value[d] * sigmoid(value[d], factor[d] * power[d])


@in_order
def _silu_backward(
    x: Floats,
    taps: Floats,
    bias: Floats,
    dy: Floats,
    dx: Floats,
    dtaps: Floats,
    dbias: Floats,
    first: int,
    last: int,
) -> None:
    """Write the gradients of the images of some parts.

    Args:
        x: (G, H, W, C).
        taps: (k, k, C).
        bias: (C,).
        dy: Gradient of y, (G, H, W, C).
        dx: (G, H, W, C), written.
        dtaps: (parts, k, k, C), added to.
        dbias: (parts, C), added to.
        first: Part to begin with.
        last: Part to end before.
    """
    images, height, width, channels = x.shape
    parts = len(dtaps)
    turned = taps[::-1, ::-1].copy()
    value = np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits = power.view(np.int32)  # the same memory
    dvalue = np.empty((height, width, channels), np.float32)
    for part in range(first, last):
        dbias_row = dbias[part]
        for image in range(images * part // parts, images * (part + 1) // parts):
            for row in range(height):
                for column in range(width):
                    value[:] = bias
                    convolve_pixel(x[image], taps, row, column, value)
                    for d in range(channels):
                        factor[d], power[d] = exponential(-abs(value[d]))
                    for d in range(channels):
                        bits[d] = to_power(bits[d])
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
