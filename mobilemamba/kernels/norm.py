"""LayerNorm and the gate behind it as one kernel, and its gradients."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import Tensor

from mobilemamba import plain
from mobilemamba.derivatives import CompiledKernel
from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.operators import array, empty_map, pixels, register
from mobilemamba.kernels.threads import parts_of, run
from mobilemamba.kernels.vector_math import ONE, Floats, dot, exponentials, sigmoid, total


def gated_norm(x: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(x) * SiLU(z), over the channels; all in float32.

    Args:
        x: (B, D, H, W).
        z: (B, D, H, W).
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.

    Returns:
        (B, D, H, W).
    """
    y = empty_map(x)
    arguments = [_rows(x), _rows(z), array(weight), array(bias), np.float32(eps), _rows(y)]
    run(_norm, arguments, x[:, 0].numel(), x.numel())
    return y


def gated_norm_backward(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, z, weight and bias of :func:`gated_norm`, given that of its result."""
    dx, dz, parts = empty_map(x), empty_map(x), parts_of(x[:, 0].numel())
    dweight, dbias = x.new_zeros(2, parts, x.shape[1]).unbind()
    inputs = [_rows(dy), _rows(x), _rows(z), array(weight), array(bias), np.float32(eps)]
    run(_norm_backward, [*inputs, _rows(dx), _rows(dz), dweight.numpy(), dbias.numpy()], parts, x.numel())
    return dx, dz, dweight.sum(0), dbias.sum(0)


def _rows(x: Tensor) -> Floats:
    return pixels(x).reshape(-1, x.shape[1])


_PASSES = register(gated_norm, gated_norm_backward, plain.gated_norm, maps=2)


def kernel(eps: float) -> CompiledKernel:
    """Return the kernel of one eps."""
    return CompiledKernel(
        partial(_PASSES.forward, eps=eps),
        partial(_PASSES.backward, eps=eps),
        partial(_PASSES.plain, eps=eps),
        bare=partial(gated_norm, eps=eps),
    )


@in_order
def _norm(
    x: Floats,  # (pixels, D)
    z: Floats,  # (pixels, D)
    weight: Floats,  # (D,)
    bias: Floats,  # (D,)
    eps: np.float32,
    y: Floats,  # (pixels, D), written
    first: int,
    last: int,
) -> None:
    """Compute the pixels from the first to before the last."""
    channels = x.shape[1]
    normal = np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for pixel in range(first, last):
        z_row, y_row = z[pixel], y[pixel]
        _normalise(x[pixel], eps, normal)
        exponentials(z_row, factor, power)
        for d in range(channels):
            gate = z_row[d] * sigmoid(z_row[d], factor[d] * power[d])
            y_row[d] = (normal[d] * weight[d] + bias[d]) * gate


@in_order
def _norm_backward(
    dy: Floats,  # (pixels, D)
    x: Floats,  # (pixels, D)
    z: Floats,  # (pixels, D)
    weight: Floats,  # (D,)
    bias: Floats,  # (D,)
    eps: np.float32,
    dx: Floats,  # (pixels, D), written
    dz: Floats,  # (pixels, D), written
    dweight: Floats,  # (parts, D), added to
    dbias: Floats,  # (parts, D), added to
    first: int,
    last: int,
) -> None:
    """Write the gradients of the pixels of the parts from the first to before the last."""
    pixels, channels = x.shape
    parts = len(dweight)
    normal, dnormal = np.empty(channels, np.float32), np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for part in range(first, last):
        dweight_row, dbias_row = dweight[part], dbias[part]
        for pixel in range(pixels * part // parts, pixels * (part + 1) // parts):
            z_row, dy_row, dx_row, dz_row = z[pixel], dy[pixel], dx[pixel], dz[pixel]
            scale = _normalise(x[pixel], eps, normal)
            exponentials(z_row, factor, power)
            for d in range(channels):
                slope = sigmoid(z_row[d], factor[d] * power[d])
                dgate = dy_row[d] * (normal[d] * weight[d] + bias[d])
                dz_row[d] = dgate * slope * (ONE + z_row[d] * (ONE - slope))
                dscaled = dy_row[d] * z_row[d] * slope
                dweight_row[d] += dscaled * normal[d]
                dbias_row[d] += dscaled
                dnormal[d] = dscaled * weight[d]
            mean = total(dnormal) / np.float32(channels)
            along = dot(dnormal, normal) / np.float32(channels)
            for d in range(channels):
                dx_row[d] = scale * (dnormal[d] - mean - along * normal[d])


@in_order
def _normalise(x: Floats, eps: np.float32, normal: Floats) -> np.float32:
    """Write a row less its mean over its deviation, and return what it was multiplied by."""
    mean = total(x) / np.float32(x.size)
    for d in range(x.size):
        normal[d] = x[d] - mean
    scale = ONE / np.sqrt(dot(normal, normal) / np.float32(x.size) + eps)
    for d in range(x.size):
        normal[d] *= scale
    return scale
