"""The selective scan with the projection that makes its step sizes, as a kernel, and its gradients.

It reads every argument once and keeps states in the cache, where plain operators pass over the map a dozen times. The
backward pass computes step sizes and states again; of them the forward pass saves none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mobilemamba.kernels.order import scan_order
from mobilemamba.kernels.scan_loops import scan, scan_backward
from mobilemamba.kernels.threads import parts_of, run, tasks_of
from mobilemamba.scan.flops import FLOPS_PER_STATE


@torch.library.custom_op("mobilemamba::projected_scan_cpu", mutates_args=(), device_types="cpu")
def projected_scan_op(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    """Scan maps in K directions and add the results; all in float32.

    Args:
        u: Input, (G, H, W, D).
        x_dbl: Low-rank dt, B and C of each pixel, (G, H, W, K * (R + 2N)).
        dt_proj_weight: From low rank to D channels of dt, (K, D, R).
        dt_proj_bias: (K, D).
        A_log: Logarithm of the negative state matrix, (K * D, N).
        D: Skip weight, (K * D,).

    Returns:
        (G, H, W, D).
    """
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    values = u.numel() * len(dt_proj_weight)
    tasks, width = tasks_of(len(u), u.shape[-1], values)
    arguments = _arguments(u, x_dbl, dt_proj_weight, dt_proj_bias, A_log, D)
    run(scan, [*arguments, y.flatten(1, 2).numpy(), width], tasks, values)
    return y


@projected_scan_op.register_fake
def _result(u: Tensor, *others: Tensor) -> Tensor:
    return u.new_empty(u.shape)


@torch.library.custom_op("mobilemamba::projected_scan_cpu_backward", mutates_args=(), device_types="cpu")
def projected_scan_op_backward(
    dy: Tensor, u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the six arguments of :func:`projected_scan_op`.

    Args:
        dy: Gradient of its result, (G, H, W, D).
        u: (G, H, W, D).
        x_dbl: (G, H, W, K * (R + 2N)).
        dt_proj_weight: (K, D, R).
        dt_proj_bias: (K, D).
        A_log: (K * D, N).
        D: (K * D,).
    """
    directions, channels, rank = dt_proj_weight.shape
    states = A_log.shape[-1]
    parts = parts_of(len(u))
    du, dx_dbl = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (u, x_dbl))
    dweight = u.new_zeros(parts, directions, rank, channels)
    dbias = u.new_zeros(parts, directions, channels)
    dA_log = u.new_zeros(parts, directions, states, channels)
    dskip = u.new_zeros(parts, channels)
    arguments = _arguments(u, x_dbl, dt_proj_weight, dt_proj_bias, A_log, D)
    outputs = [du.flatten(1, 2), dx_dbl.flatten(1, 2), dweight, dbias, dA_log, dskip]
    dy = dy.flatten(1, 2).contiguous()
    arrays = [dy.numpy(), *(x.numpy() for x in outputs)]
    run(scan_backward, [*arguments, *arrays], parts, u.numel() * directions)
    dweight, dbias, dA_log, dskip = (x.sum(0) for x in (dweight, dbias, dA_log, dskip))
    return (
        du,
        dx_dbl,
        dweight.mT.contiguous(),
        dbias,
        dA_log.mT.flatten(0, 1).contiguous(),
        dskip.repeat(directions),
    )


@projected_scan_op_backward.register_fake
def _gradients(dy: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments)


@register_flop_formula(torch.ops.mobilemamba.projected_scan_cpu)
def _flops(
    u_shape: Sequence[int],
    x_dbl_shape: Sequence[int],
    step_shape: Sequence[int],
    bias_shape: Sequence[int],
    A_shape: Sequence[int],
    *others: Any,
    **_: Any,
) -> int:
    return math.prod(u_shape[:3]) * (2 * math.prod(step_shape) + FLOPS_PER_STATE * math.prod(A_shape))


@register_flop_formula(torch.ops.mobilemamba.projected_scan_cpu_backward)
def _backward_flops(dy_shape: Sequence[int], *shapes: Sequence[int], **_: Any) -> int:
    """Return the count of the forward pass, which is repeated, and twice as much for the gradients."""
    return 3 * _flops(*shapes)


def _arguments(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> list[Any]:
    """Return what both kernels take first."""
    directions, channels, _ = dt_proj_weight.shape
    rate = torch.exp(A_log).view(directions, channels, -1).mT  # (K, N, D)
    skip = D.view(directions, channels).sum(0)
    tensors = (u.flatten(1, 2), x_dbl.flatten(1, 2), dt_proj_weight.mT, dt_proj_bias, rate, skip)
    return [scan_order(directions, *u.shape[1:3]), *(x.detach().contiguous().numpy() for x in tensors)]
