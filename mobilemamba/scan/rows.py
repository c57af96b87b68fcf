"""The selective scan as short loops over columns and rows: for CPUs, and for exported graphs of fixed size.

All rows of a channels-last map are scanned at once, column by column, as if each began with an empty state; then the
state at the end of each row is carried to the next: W + H steps instead of H * W, each over contiguous slices. Where
:mod:`.parallel` doubles its reach with passes over the whole map, every value is touched once here. The gradient of a
scan is a scan against its direction, so autograd keeps A_bars and states alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilemamba.scan.directions import negative_softplus, scan_directions


def projected_rows_scan(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    """Make step sizes and scan, channels last throughout.

    Args:
        u: Input, (B, D, H, W).
        x_dbl: As in :func:`.projected.split`, like the next four: (B, K * (R + 2N), H, W).
        dt_proj_weight: (K, D, R).
        dt_proj_bias: (K, D).
        A_log: (K * D, N).
        D: (K * D,).

    Returns:
        (B, D, H, W), float32 at least.
    """
    y = channels_last_scan(u.permute(0, 2, 3, 1), x_dbl.permute(0, 2, 3, 1), dt_proj_weight, dt_proj_bias, A_log, D)
    return y.permute(0, 3, 1, 2)


def channels_last_scan(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    """The same as :func:`projected_rows_scan`, of u (B, H, W, D) and x_dbl (B, H, W, K * (R + 2N)), to (B, H, W, D)."""
    k, d, r = dt_proj_weight.shape
    n = A_log.shape[-1]
    dtype = torch.promote_types(u.dtype, torch.float32)
    low_rank, B, C = x_dbl.split([k * r, k * n, k * n], dim=-1)
    u = u.to(dtype)
    # Columns of B carry the sign that delta lacks.
    low_rank, B, C = low_rank.split(r, dim=-1), (-B).to(dtype).split(1, dim=-1), C.to(dtype).split(1, dim=-1)
    A = torch.exp(A_log.to(dtype)).view(k, d, n)
    outputs = []
    for direction in range(k):
        dt = F.linear(low_rank[direction], -dt_proj_weight[direction], -dt_proj_bias[direction])
        negative_delta = negative_softplus(dt.to(dtype))
        for state in range(n):
            column = direction * n + state
            A_bar = torch.exp(negative_delta * A[direction, :, state])
            outputs.append(C[column] * scan_map(A_bar, negative_delta * (u * B[column]), direction))
    # A subtraction, since graph optimisers merge an addition with the norm after it into one slower node.
    return reduce(torch.add, outputs) - u * -D.to(dtype).view(k, d).sum(0)


def scan_map(A_bar: Tensor, delta_B_u: Tensor, direction: int) -> Tensor:
    """States h_t = A_bar_t h_{t-1} + delta_B_u_t of a map in one of the four directions.

    Args:
        A_bar: (B, H, W, D).
        delta_B_u: (B, H, W, D).
        direction: 0 raster order, 1 its reverse, 2 column-major order, 3 its reverse.

    Returns:
        (B, H, W, D).
    """
    if direction >= 2:
        return scan_map(A_bar.transpose(1, 2), delta_B_u.transpose(1, 2), direction - 2).transpose(1, 2)
    if torch.is_grad_enabled() and (A_bar.requires_grad or delta_B_u.requires_grad):
        return _Recurrence.apply(A_bar, delta_B_u, direction == 1)
    return row_scan(A_bar, delta_B_u, reverse=direction == 1)


class _Recurrence(torch.autograd.Function):
    """:func:`row_scan` with its derivatives, which are such scans themselves."""

    generate_vmap_rule = True

    @staticmethod
    def forward(A_bar: Tensor, delta_B_u: Tensor, reverse: bool) -> Tensor:
        return row_scan(A_bar, delta_B_u, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        A_bar, _, ctx.reverse = inputs
        ctx.save_for_backward(A_bar, output)
        ctx.save_for_forward(A_bar, output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        A_bar, state = ctx.saved_tensors
        # What a state changes in later ones: those of the pixels after it, through their decays.
        after = _neighbours(A_bar, after=not ctx.reverse)
        gradient = scan_map(after, gradients[0], 0 if ctx.reverse else 1)
        return gradient * _neighbours(state, after=ctx.reverse), gradient, None

    @staticmethod
    def jvp(ctx: Any, A_bar_tangent: Tensor | None, tangent: Tensor | None, _: None) -> Tensor:
        A_bar, state = ctx.saved_tensors
        total = torch.zeros_like(state) if tangent is None else tangent
        if A_bar_tangent is not None:
            total = total + A_bar_tangent * _neighbours(state, after=ctx.reverse)
        return row_scan(A_bar, total, ctx.reverse)


def row_scan(A_bar: Tensor, delta_B_u: Tensor, reverse: bool = False) -> Tensor:
    """States h_t = A_bar_t h_{t-1} + delta_B_u_t of a map in raster order, or against it.

    Args:
        A_bar: (B, H, W, D).
        delta_B_u: (B, H, W, D).
        reverse: From the last pixel to the first.

    Returns:
        (B, H, W, D).
    """
    height, width = delta_B_u.shape[1:3]
    A_bars, inputs = _in_order(A_bar.split(1, dim=2), reverse), _in_order(delta_B_u.split(1, dim=2), reverse)
    products, states = [A_bars[0]], [inputs[0]]  # (B, H, 1, D) per column
    for column in range(1, width):
        products.append(products[-1] * A_bars[column])
        states.append(torch.addcmul(inputs[column], A_bars[column], states[-1]))
    state = torch.cat(_in_order(states, reverse), dim=2)
    if height == 1:
        return state
    row_products = _in_order(products[-1].split(1, dim=1), reverse)  # (B, 1, 1, D) per row
    row_states = _in_order(states[-1].split(1, dim=1), reverse)
    carried = [torch.zeros_like(row_states[0]), row_states[0]]  # what the rows before hand to each row
    for row in range(1, height - 1):
        carried.append(torch.addcmul(row_states[row], row_products[row], carried[-1]))
    product = torch.cat(_in_order(products, reverse), dim=2)
    return torch.addcmul(state, product, torch.cat(_in_order(carried, reverse), dim=1))


def _in_order(slices: Sequence[Tensor], reverse: bool) -> list[Tensor]:
    return list(reversed(slices)) if reverse else list(slices)


def _neighbours(values: Tensor, after: bool) -> Tensor:
    """Return the values of the next or last pixel in raster order, (B, H, W, D); 0 where there is none."""
    flat = values.flatten(1, 2)
    zero = torch.zeros_like(flat[:, :1])
    return torch.cat([flat[:, 1:], zero] if after else [zero, flat[:, :-1]], dim=1).view(values.shape)


def _scan_channels_last(A_bar: Tensor, delta_B_u: Tensor, direction: int) -> Tensor:
    """The same as scan_map over (B, D, H, W)."""
    A_bar, delta_B_u = (x.permute(0, 2, 3, 1).contiguous() for x in (A_bar, delta_B_u))
    return scan_map(A_bar, delta_B_u, direction).permute(0, 3, 1, 2)


rows_scan = partial(scan_directions, recurrence=_scan_channels_last)
"""Scans a feature map in K directions, see :func:`.directions.scan_directions`."""
