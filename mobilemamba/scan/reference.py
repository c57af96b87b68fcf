"""The selective scan one pixel at a time: slow, obvious, and the judge of every other form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FLOPS_PER_STATE = 9
"""Operations for each pixel, direction, channel and state: the count of Mamba and of the paper."""


def sequential_scan(u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan a feature map in K directions, following the recurrence literally.

    For direction k, at its t-th pixel, with delta = softplus(dt)::

        h_t = exp(-delta_t * exp(A_log)) * h_{t-1} + delta_t * B_t * u_t
        y_t = C_t . h_t + D * u_t

    The results of all directions are added at their pixels.

    Args:
        u: Input, (B, D, H, W).
        dt: Step sizes before softplus, (B, K, D, H, W).
        A_log: Logarithm of the negative state matrix, (K, D, N).
        B: Input projection, (B, K, N, H, W).
        C: Output projection, (B, K, N, H, W).
        D: Skip weight, (K, D).

    Returns:
        (B, D, H, W), in the dtype that the arguments promote to.
    """
    height, width = u.shape[-2:]
    delta = F.softplus(dt)
    total = torch.zeros_like(delta[:, 0])
    for k, pixels in enumerate(scan_orders(height, width)[: delta.shape[1]]):
        state = torch.zeros_like(delta[:, k, :, 0, 0]).unsqueeze(-1).expand(-1, -1, A_log.shape[-1])  # (B, D, N)
        outputs = []
        for row, column in pixels:
            delta_t = delta[:, k, :, row, column].unsqueeze(-1)  # (B, D, 1)
            u_t = u[:, :, row, column].unsqueeze(-1)
            B_t = B[:, k, :, row, column].unsqueeze(1)  # (B, 1, N)
            C_t = C[:, k, :, row, column].unsqueeze(1)
            state = torch.exp(-delta_t * torch.exp(A_log[k])) * state + delta_t * B_t * u_t
            outputs.append((C_t * state).sum(-1) + D[k] * u_t.squeeze(-1))
        index = [row * width + column for row, column in pixels]
        ordered = torch.stack(outputs, dim=-1)  # (B, D, L) in the order of the scan
        raster = ordered[..., torch.argsort(torch.tensor(index))]
        total = total + raster.unflatten(-1, (height, width))
    return total


def scan_orders(height: int, width: int) -> list[list[tuple[int, int]]]:
    """Return the (row, column) order of each direction: raster, its reverse, column-major, its reverse."""
    raster = [(row, column) for row in range(height) for column in range(width)]
    columns = [(row, column) for column in range(width) for row in range(height)]
    return [raster, raster[::-1], columns, columns[::-1]]
