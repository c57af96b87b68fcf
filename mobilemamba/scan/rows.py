"""The selective scan as short loops over columns and rows: for CPUs, and for exported graphs of fixed size.

All rows of a channels-last map are scanned at once, column by column, as if each began with an empty state; then the
state at the end of each row is carried to the next: W + H steps instead of H * W, each over contiguous slices. Where
:mod:`.parallel` doubles its reach with passes over the whole map, every value is touched once here. The gradient of a
scan is a scan against its direction, so autograd keeps decays and states alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mobilemamba.scan.directions import scan_directions


def rows_scan(
    u: Tensor,
    dt: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
) -> Tensor:
    """Scan a feature map in K directions; see :func:`.directions.scan_directions`."""
    return scan_directions(u, dt, A_log, B, C, D, _scan_channels_last)


def scan_map(decay: Tensor, drive: Tensor, direction: int) -> Tensor:
    """States h_t = decay_t h_{t-1} + drive_t of a map in one of the four directions.

    Args:
        decay: (B, H, W, D).
        drive: (B, H, W, D).
        direction: 0 raster order, 1 its reverse, 2 column-major order, 3 its reverse.

    Returns:
        (B, H, W, D).
    """
    if direction >= 2:
        return scan_map(decay.transpose(1, 2), drive.transpose(1, 2), direction - 2).transpose(1, 2)
    if torch.is_grad_enabled() and (decay.requires_grad or drive.requires_grad):
        return _Recurrence.apply(decay, drive, direction == 1)
    return row_scan(decay, drive, reverse=direction == 1)


class _Recurrence(torch.autograd.Function):
    """:func:`row_scan` with its gradient."""

    @staticmethod
    def forward(decay: Tensor, drive: Tensor, reverse: bool) -> Tensor:
        return row_scan(decay, drive, reverse)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
        decay, _, ctx.reverse = inputs
        ctx.save_for_backward(decay, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        decay, state = ctx.saved_tensors
        # What a state changes in later ones: those of the pixels after it, through their decays.
        gradient = row_scan(_neighbours(decay, after=not ctx.reverse), gradient, not ctx.reverse)
        return gradient * _neighbours(state, after=ctx.reverse), gradient, None


def row_scan(decay: Tensor, drive: Tensor, reverse: bool = False) -> Tensor:
    """States h_t = decay_t h_{t-1} + drive_t of a map in raster order, or against it; H and W must be known numbers.

    Args:
        decay: (B, H, W, D).
        drive: (B, H, W, D).
        reverse: From the last pixel to the first.

    Returns:
        (B, H, W, D).
    """
    height, width = drive.shape[1:3]
    decays, drives = _in_order(decay.split(1, dim=2), reverse), _in_order(drive.split(1, dim=2), reverse)
    products, states = [decays[0]], [drives[0]]  # (B, H, 1, D) per column
    for column in range(1, width):
        products.append(products[-1] * decays[column])
        states.append(torch.addcmul(drives[column], decays[column], states[-1]))
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


def _scan_channels_last(decay: Tensor, drive: Tensor, direction: int) -> Tensor:
    """The same as scan_map over (B, D, H, W)."""
    decay, drive = (x.permute(0, 2, 3, 1).contiguous() for x in (decay, drive))
    return scan_map(decay, drive, direction).permute(0, 3, 1, 2)
