"""The selective scan with the projection that makes its step sizes, as a kernel, and its gradients.

It reads every argument once and keeps states in the cache, where plain operators pass over the map a dozen times. The
backward pass computes step sizes and states again; of them the forward pass saves none.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilemamba.kernels.operators import Shape, array, empty_map, pixels, register
from mobilemamba.kernels.scan_loops import Integers, scan, scan_backward
from mobilemamba.kernels.threads import parts_of, run, tasks_of
from mobilemamba.kernels.vector_math import Floats
from mobilemamba.scan.reference import FLOPS_PER_STATE
from mobilemamba.scan.rows import projected_rows_scan


def projected_scan(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    """Scan maps in K directions and add the results; all in float32.

    Args:
        u: Input, (B, D, H, W).
        x_dbl: Low-rank dt, B and C of each pixel, (B, K * (R + 2N), H, W).
        dt_proj_weight: From low rank to D channels of dt, (K, D, R).
        dt_proj_bias: (K, D).
        A_log: Logarithm of the negative state matrix, (K * D, N).
        D: Skip weight, (K * D,).

    Returns:
        (B, D, H, W).
    """
    y = empty_map(u)
    values = u.numel() * len(dt_proj_weight)
    tasks, width = tasks_of(len(u), u.shape[1], values)
    run(scan, [*_arguments(u, x_dbl, dt_proj_weight, dt_proj_bias, A_log, D), _rows(y), width], tasks, values)
    return y


def projected_scan_backward(
    dy: Tensor, u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the six arguments of :func:`projected_scan`, given that of its result."""
    directions, channels, rank = dt_proj_weight.shape
    states, parts = A_log.shape[-1], parts_of(len(u))
    du, dx_dbl = empty_map(u), empty_map(x_dbl)
    shapes = ((directions, rank, channels), (directions, channels), (directions, states, channels), (channels,))
    sums = [u.new_zeros(parts, *shape) for shape in shapes]
    arguments = _arguments(u, x_dbl, dt_proj_weight, dt_proj_bias, A_log, D)
    gradients = [_rows(du), _rows(dx_dbl), *(x.numpy() for x in sums)]
    run(scan_backward, [*arguments, _rows(dy), *gradients], parts, u.numel() * directions)
    dweight, dbias, dA_log, dskip = (x.sum(0) for x in sums)
    dA_log = dA_log.mT.flatten(0, 1).contiguous()
    return du, dx_dbl, dweight.mT.contiguous(), dbias, dA_log, dskip.repeat(directions)


def _flops(
    u_shape: Shape, x_dbl_shape: Shape, dt_proj_shape: Shape, bias_shape: Shape, A_shape: Shape, *others: Any
) -> int:
    images, _, height, width = u_shape
    return images * height * width * (2 * math.prod(dt_proj_shape) + FLOPS_PER_STATE * math.prod(A_shape))


KERNEL = register(projected_scan, projected_scan_backward, projected_rows_scan, maps=2, flops=_flops)


def _arguments(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> list[Any]:
    """Return what both kernels take first."""
    directions, channels, _ = dt_proj_weight.shape
    A = torch.exp(A_log).view(directions, channels, -1).mT  # (K, N, D)
    skip = D.view(directions, channels).sum(0)
    weights = (array(x) for x in (dt_proj_weight.mT, dt_proj_bias, A, skip))
    return [_order(directions, *u.shape[2:]), _rows(u), _rows(x_dbl), *weights]


def _rows(x: Tensor) -> Floats:
    images, channels, height, width = x.shape
    return pixels(x).reshape(images, height * width, channels)


@functools.lru_cache(maxsize=64)
def _order(directions: int, height: int, width: int) -> Integers:
    """Return pixel numbers, row by row, in the order of each scan, (K, H * W).

    The first K of: raster order, its reverse, column-major order, its reverse.
    """
    raster = np.arange(height * width)
    columns = raster.reshape(height, width).T.flatten()
    return np.stack([raster, raster[::-1], columns, columns[::-1]][:directions])
