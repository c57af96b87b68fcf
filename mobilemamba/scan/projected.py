"""From the output of ``x_proj`` to the arguments of a selective scan."""

from __future__ import annotations

import torch
from torch import Tensor


def split(
    x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return dt (B, K, D, H, W), A_log (K, D, N), B and C (B, K, N, H, W), D (K, D).

    Args:
        x_dbl: What ``x_proj`` makes of each pixel: low-rank dt, B and C, of all directions each,
            (B, K * (R + 2N), H, W).
        dt_proj_weight: From low rank to D channels, (K, D, R).
        dt_proj_bias: (K, D).
        A_log: Logarithm of the negative state matrix, (K * D, N).
        D: Skip weight, (K * D,).
    """
    k, d, r = dt_proj_weight.shape
    n = A_log.shape[-1]
    low_rank, B, C = x_dbl.split([k * r, k * n, k * n], dim=1)
    dt = torch.conv2d(low_rank, dt_proj_weight.view(k * d, r, 1, 1), dt_proj_bias.view(k * d), groups=k)
    # torch.unflatten, because torch.compile of torch 2.10 cannot trace the method under a default device.
    dt, B, C = torch.unflatten(dt, 1, (k, d)), torch.unflatten(B, 1, (k, n)), torch.unflatten(C, 1, (k, n))
    return dt, A_log.view(k, d, n), B, C, D.view(k, d)
