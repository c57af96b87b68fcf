"""What the plain forms of the selective scan share: everything around the recurrence of states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LINEAR_SOFTPLUS = 30.0
"""From here on softplus(x) is x, but for 1e-13."""

Recurrence = Callable[[Tensor, Tensor, int], Tensor]
"""Maps A_bar and delta_B_u, (B, D, H, W) each, and a direction in 0 to 3 to states (B, D, H, W)."""


def scan_directions(
    u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, recurrence: Recurrence
) -> Tensor:
    """Scan a feature map in K directions; arguments and result as in :func:`.reference.sequential_scan`.

    The state is held in float32 (float64 for float64 input) whatever the dtype of the arguments and under autocast:
    only element-wise operators are used, which autocast leaves alone.

    Args:
        u: (B, D, H, W).
        dt: (B, K, D, H, W).
        A_log: (K, D, N).
        B: (B, K, N, H, W).
        C: (B, K, N, H, W).
        D: (K, D).
        recurrence: States h_t = A_bar_t h_{t-1} + delta_B_u_t in a direction.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    u, B, C = u.to(dtype), B.to(dtype), C.to(dtype)
    negative_delta = negative_softplus(-dt.to(dtype))  # (B, K, D, H, W)
    A = torch.exp(A_log.to(dtype))  # (K, D, N)
    y = D.to(dtype).sum(0).view(-1, 1, 1) * u
    for k in range(dt.shape[1]):
        negative_delta_u = negative_delta[:, k] * u  # (B, D, H, W)
        for n in range(A_log.shape[-1]):
            A_bar = torch.exp(negative_delta[:, k] * A[k, :, n].view(-1, 1, 1))
            y = y - C[:, k, n, None] * recurrence(A_bar, negative_delta_u * B[:, k, n, None], k)
    return y


def negative_softplus(negative: Tensor) -> Tensor:
    """Return -softplus(-negative), of faster operators: log1p, of which the usual ones are made, is slow on CPUs."""
    return torch.minimum(negative, torch.log(torch.sigmoid(negative.clamp(min=-LINEAR_SOFTPLUS))))
