"""Depthwise convolution of Haar sub-bands, with the transform and its inverse, as one kernel; and its gradients."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from mobilemamba import wavelet
from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.depthwise import convolve_pixel, correlate
from mobilemamba.kernels.operators import Shape, array, empty_map, pixels, register
from mobilemamba.kernels.threads import parts_of, run
from mobilemamba.kernels.vector_math import HALF, ZERO, Floats
from mobilemamba.wavelet import SUB_BANDS


def haar_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Transform, convolve each sub-band of each channel with its own kernel, and transform back.

    An odd side is taken as if one row or column of zeros followed.

    Args:
        x: (B, C, H, W) in float32.
        weight: (4C, 1, k, k), k odd, in the order of :mod:`mobilemamba.wavelet`.

    Returns:
        (B, C, H, W).
    """
    y = empty_map(x)
    taps = weight.unflatten(0, (-1, SUB_BANDS)).permute(2, 1, 3, 4, 0).squeeze(0)  # (4, k, k, C)
    run(_convolve, [pixels(x), array(taps), pixels(y)], len(x), y.numel())
    return y


def haar_conv_backward(dy: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of both arguments of :func:`haar_conv`, given that of its result."""
    parts, size = parts_of(len(x)), weight.shape[-1]
    dtaps = x.new_zeros(parts, SUB_BANDS, size, size, x.shape[1])
    run(_sum_gradients, [pixels(dy), pixels(x), dtaps.numpy()], parts, x.numel())
    # The transform is orthonormal: its transpose is its inverse. That of a convolution has the kernel turned round.
    dx = haar_conv(dy, weight.flip(-1, -2))
    return dx, dtaps.sum(0).permute(3, 0, 1, 2).flatten(0, 1).unsqueeze(1).contiguous()


def plain_haar_conv(x: Tensor, weight: Tensor) -> Tensor:
    """The same in plain operators."""
    filters = wavelet.haar_filters().to(x.device, x.dtype).repeat(x.shape[1], 1, 1, 1)
    return wavelet.haar_conv(x, [weight], filters, filters)


def _flops(x_shape: Shape, weight_shape: Shape) -> int:
    """Return what the convolutions would have that do the same."""
    images, channels, height, width = x_shape
    band_values = images * -(-height // 2) * -(-width // 2) * SUB_BANDS * channels
    return 2 * band_values * (math.prod(weight_shape[2:]) + 2 * SUB_BANDS)


KERNEL = register(haar_conv, haar_conv_backward, plain_haar_conv, maps=1, flops=_flops, backward_flops=2)


@in_order
def _convolve(
    x: Floats,  # (B, H, W, C)
    taps: Floats,  # (4, k, k, C)
    y: Floats,  # (B, H, W, C), written
    first: int,
    last: int,
) -> None:
    """Convolve the images from the first to before the last."""
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
def _sum_gradients(
    dy: Floats,  # (B, H, W, C)
    x: Floats,  # (B, H, W, C)
    dtaps: Floats,  # (parts, 4, k, k, C), added to
    first: int,
    last: int,
) -> None:
    """Sum the gradients of the taps over the images of the parts from the first to before the last."""
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
    """Write the Haar sub-bands, (4, ceil(H / 2), ceil(W / 2), C), of an image, (H, W, C)."""
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
    """Write the Haar transform y of four rows of channels x, (C,) each; it is its own inverse.

    Pixels are upper left, lower left, upper right, lower right; bands in the order of :mod:`mobilemamba.wavelet`.
    """
    for d in range(x0.size):
        left, right = x0[d] + x1[d], x2[d] + x3[d]
        left_step, right_step = x0[d] - x1[d], x2[d] - x3[d]
        y0[d] = HALF * (left + right)
        y1[d] = HALF * (left_step + right_step)
        y2[d] = HALF * (left - right)
        y3[d] = HALF * (left_step - right_step)
