"""Depthwise convolution of Haar sub-bands, with the transform and its inverse, as one kernel; and its gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.depthwise import convolve_pixel, correlate
from mobilemamba.kernels.threads import parts_of, run
from mobilemamba.kernels.vector_math import HALF, ZERO, Floats
from mobilemamba.wavelet import SUB_BANDS


@torch.library.custom_op("mobilemamba::haar_conv_cpu", mutates_args=(), device_types="cpu")
def haar_conv_op(x: Tensor, weight: Tensor) -> Tensor:
    """Transform, convolve each sub-band of each channel with its own kernel, and transform back.

    An odd side is taken as if one row or column of zeros followed.

    Args:
        x: (G, H, W, C) in float32.
        weight: (4C, 1, k, k), k odd, in the order of :mod:`mobilemamba.wavelet`.

    Returns:
        (G, H, W, C).
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    taps = weight.unflatten(0, (-1, SUB_BANDS)).permute(2, 1, 3, 4, 0).squeeze(0)  # (4, k, k, C)
    arrays = [t.detach().contiguous().numpy() for t in (x, taps)]
    run(_convolve, [*arrays, y.numpy()], len(x), y.numel())
    return y


@haar_conv_op.register_fake
def _result(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("mobilemamba::haar_conv_cpu_weight_gradient", mutates_args=(), device_types="cpu")
def haar_conv_weight_gradient(dy: Tensor, x: Tensor, size: int) -> Tensor:
    """Return the gradient of the weight of :func:`haar_conv_op`, (4C, 1, k, k).

    Args:
        dy: Gradient of its result, (G, H, W, C).
        x: Its input, (G, H, W, C).
        size: k.
    """
    images, *_, channels = x.shape
    parts = parts_of(images)
    dtaps = x.new_zeros(parts, SUB_BANDS, size, size, channels)
    arrays = [t.detach().contiguous().numpy() for t in (dy, x)]
    run(_sum_gradients, [*arrays, dtaps.numpy()], parts, x.numel())
    return dtaps.sum(0).permute(3, 0, 1, 2).flatten(0, 1).unsqueeze(1).contiguous()


@haar_conv_weight_gradient.register_fake
def _gradient(dy: Tensor, x: Tensor, size: int) -> Tensor:
    return x.new_empty(SUB_BANDS * x.shape[-1], 1, size, size)


def haar_conv_op_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of both arguments of :func:`haar_conv_op`."""
    # The transform is orthonormal: its transpose is its inverse. That of a convolution has the kernel turned round.
    return haar_conv_op(dy, weight.flip(-1, -2)), haar_conv_weight_gradient(dy, x, weight.shape[-1])


@register_flop_formula(torch.ops.mobilemamba.haar_conv_cpu)
def _flops(x_shape: Sequence[int], weight_shape: Sequence[int], *others: Any, **_: Any) -> int:
    """Return what the convolutions would have that do the same."""
    return 2 * _band_values(x_shape) * (math.prod(weight_shape[2:]) + 2 * SUB_BANDS)


@register_flop_formula(torch.ops.mobilemamba.haar_conv_cpu_weight_gradient)
def _gradient_flops(dy_shape: Sequence[int], x_shape: Sequence[int], size: int, **_: Any) -> int:
    return 2 * _band_values(x_shape) * (size**2 + 2 * SUB_BANDS)


def _band_values(shape: Sequence[int]) -> int:
    images, height, width, channels = shape
    return images * -(-height // 2) * -(-width // 2) * SUB_BANDS * channels


@in_order
def _convolve(x: Floats, taps: Floats, y: Floats, first: int, last: int) -> None:
    """Convolve some images.

    Args:
        x: (G, H, W, C).
        taps: (4, k, k, C).
        y: (G, H, W, C), written.
        first: Image to begin with.
        last: Image to end before.
    """
    _, height, width, channels = x.shape
    rows, columns = (height + 1) // 2, (width + 1) // 2
    bands = np.empty((SUB_BANDS, rows, columns, channels), np.float32)
    convolved = np.empty((SUB_BANDS, channels), np.float32)
    beyond = np.empty(channels, np.float32)
    for image in range(first, last):
        _transform(x[image], bands)
        for i in range(rows):
            for j in range(columns):
                convolved[:] = ZERO
                for band in range(SUB_BANDS):
                    convolve_pixel(bands[band], taps[band], i, j, convolved[band])
                has_right, has_below = 2 * j + 1 < width, 2 * i + 1 < height
                y0 = y[image, 2 * i, 2 * j]
                y1 = y[image, 2 * i + 1, 2 * j] if has_below else beyond
                y2 = y[image, 2 * i, 2 * j + 1] if has_right else beyond
                y3 = y[image, 2 * i + 1, 2 * j + 1] if has_right and has_below else beyond
                _butterfly(convolved[0], convolved[1], convolved[2], convolved[3], y0, y1, y2, y3)


@in_order
def _sum_gradients(dy: Floats, x: Floats, dtaps: Floats, first: int, last: int) -> None:
    """Sum the gradients of the taps over the images of some parts.

    Args:
        dy: (G, H, W, C).
        x: (G, H, W, C).
        dtaps: (parts, 4, k, k, C), added to.
        first: Part to begin with.
        last: Part to end before.
    """
    images, height, width, channels = x.shape
    parts = len(dtaps)
    rows, columns = (height + 1) // 2, (width + 1) // 2
    bands = np.empty((SUB_BANDS, rows, columns, channels), np.float32)
    gradients = np.empty((SUB_BANDS, rows, columns, channels), np.float32)
    for part in range(first, last):
        for image in range(images * part // parts, images * (part + 1) // parts):
            _transform(x[image], bands)
            _transform(dy[image], gradients)
            for band in range(SUB_BANDS):
                correlate(bands[band], gradients[band], dtaps[part, band])


@in_order
def _transform(x: Floats, bands: Floats) -> None:
    """Write the Haar sub-bands of an image.

    Args:
        x: (H, W, C).
        bands: (4, ceil(H / 2), ceil(W / 2), C), written.
    """
    height, width, channels = x.shape
    _, rows, columns, _ = bands.shape
    zeros = np.zeros(channels, np.float32)
    for i in range(rows):
        for j in range(columns):
            has_right, has_below = 2 * j + 1 < width, 2 * i + 1 < height
            x1 = x[2 * i + 1, 2 * j] if has_below else zeros
            x2 = x[2 * i, 2 * j + 1] if has_right else zeros
            x3 = x[2 * i + 1, 2 * j + 1] if has_right and has_below else zeros
            _butterfly(x[2 * i, 2 * j], x1, x2, x3, bands[0, i, j], bands[1, i, j], bands[2, i, j], bands[3, i, j])


@in_order
def _butterfly(x0: Floats, x1: Floats, x2: Floats, x3: Floats, y0: Floats, y1: Floats, y2: Floats, y3: Floats) -> None:
    """Write the Haar transform of four rows of channels, which is its own inverse.

    Args:
        x0: (C,): of the pixels, the upper left; of the bands, the low one.
        x1: The lower left; the high one along the height.
        x2: The upper right; the high one along the width.
        x3: The lower right; the high one along both.
        y0: Written, the counterpart of x0 in the other domain.
        y1: Written, that of x1.
        y2: Written, that of x2.
        y3: Written, that of x3.
    """
    for d in range(x0.size):
        left, right = x0[d] + x1[d], x2[d] + x3[d]
        left_step, right_step = x0[d] - x1[d], x2[d] - x3[d]
        y0[d] = HALF * (left + right)
        y1[d] = HALF * (left_step + right_step)
        y2[d] = HALF * (left - right)
        y3[d] = HALF * (left_step - right_step)
