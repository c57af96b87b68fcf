"""LayerNorm and the gate behind it as one kernel, and its gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilemamba.kernels.compilation import in_order
from mobilemamba.kernels.threads import parts_of, run
from mobilemamba.kernels.vector_math import ONE, Floats, dot, exponential, sigmoid, to_power, total


@torch.library.custom_op("mobilemamba::gated_norm_cpu", mutates_args=(), device_types="cpu")
def gated_norm_op(x: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(x) * SiLU(z), over the last axis; all in float32.

    Args:
        x: (G, H, W, D).
        z: (G, H, W, D).
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.

    Returns:
        (G, H, W, D).
    """
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    run(_norm, [*_rows(x, z), *_rows(weight, bias), np.float32(eps), *_rows(y)], x[..., 0].numel(), x.numel())
    return y


@gated_norm_op.register_fake
def _result(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("mobilemamba::gated_norm_cpu_backward", mutates_args=(), device_types="cpu")
def gated_norm_op_backward(
    dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, z, weight and bias of :func:`gated_norm_op`.

    Args:
        dy: Gradient of its result, (G, H, W, D).
        x: (G, H, W, D).
        z: (G, H, W, D).
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.
    """
    dx, dz = (torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(2))
    pixels = x[..., 0].numel()
    parts = parts_of(pixels)
    dweight, dbias = x.new_zeros(2, parts, x.shape[-1]).unbind()
    inputs = [*_rows(dy, x, z), *_rows(weight, bias), np.float32(eps)]
    run(_norm_backward, [*inputs, *_rows(dx, dz, dweight, dbias)], parts, x.numel())
    return dx, dz, dweight.sum(0), dbias.sum(0)


@gated_norm_op_backward.register_fake
def _gradients(dy: Tensor, x: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (x, z, weight, bias))


def _rows(*tensors: Tensor) -> list[Floats]:
    return [x.detach().flatten(0, -2).contiguous().numpy() if x.ndim > 1 else x.detach().numpy() for x in tensors]


@in_order
def _norm(
    x: Floats, z: Floats, weight: Floats, bias: Floats, eps: np.float32, y: Floats, first: int, last: int
) -> None:
    """Compute some pixels.

    Args:
        x: (pixels, D).
        z: (pixels, D).
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.
        y: (pixels, D), written.
        first: Pixel to begin with.
        last: Pixel to end before.
    """
    channels = x.shape[1]
    normal = np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits = power.view(np.int32)  # the same memory
    for pixel in range(first, last):
        z_row, y_row = z[pixel], y[pixel]
        _normalise(x[pixel], eps, normal)
        for d in range(channels):
            factor[d], power[d] = exponential(-abs(z_row[d]))
        for d in range(channels):
            bits[d] = to_power(bits[d])
        for d in range(channels):
            gate = z_row[d] * sigmoid(z_row[d], factor[d] * power[d])
            y_row[d] = (normal[d] * weight[d] + bias[d]) * gate


@in_order
def _norm_backward(
    dy: Floats,
    x: Floats,
    z: Floats,
    weight: Floats,
    bias: Floats,
    eps: np.float32,
    dx: Floats,
    dz: Floats,
    dweight: Floats,
    dbias: Floats,
    first: int,
    last: int,
) -> None:
    """Write the gradients of the pixels of some parts.

    Args:
        dy: Gradient of y, (pixels, D).
        x: (pixels, D).
        z: (pixels, D).
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.
        dx: (pixels, D), written.
        dz: (pixels, D), written.
        dweight: (parts, D), added to.
        dbias: (parts, D), added to.
        first: Part to begin with.
        last: Part to end before.
    """
    pixels, channels = x.shape
    parts = len(dweight)
    normal, dnormal = np.empty(channels, np.float32), np.empty(channels, np.float32)
    factor, power = np.empty(channels, np.float32), np.empty(channels, np.float32)
    bits = power.view(np.int32)  # the same memory
    for part in range(first, last):
        dweight_row, dbias_row = dweight[part], dbias[part]
        for pixel in range(pixels * part // parts, pixels * (part + 1) // parts):
            z_row, dy_row, dx_row, dz_row = z[pixel], dy[pixel], dx[pixel], dz[pixel]
            scale = _normalise(x[pixel], eps, normal)
            for d in range(channels):
                factor[d], power[d] = exponential(-abs(z_row[d]))
            for d in range(channels):
                bits[d] = to_power(bits[d])
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
