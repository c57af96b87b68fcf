"""BiMamba: a gated selective scan of a feature map in both raster directions.

Paper section 3.2 (arXiv:2411.15941); behaviour of SS2D in github.com/lewandofskee/MobileMamba/blob/0980f48. Here the
projections that make step sizes, B and C act on the map itself, as 1x1 convolutions: a projection per pixel commutes
with the order of pixels, so no flipped copy of the input is ever made.
"""

from __future__ import annotations

import math

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mobilemamba.conv_norm import ConvNorm
from mobilemamba.scan import selective_scan

RANK_DIVISOR = 16
"""The step-size projection has rank ceil(channels / 16)."""


class BiMamba(nn.Module):
    """Gated selective scan, (B, C, H, W) to the same shape.

    Args:
        channels: Channels C.
        expansion: Inner width D relative to C.
        state_size: State size N.
        directions: Scan directions K: 1, 2 or 4.
    """

    def __init__(self, channels: int, expansion: float = 2.0, state_size: int = 1, directions: int = 2) -> None:
        super().__init__()
        inner, rank = int(expansion * channels), math.ceil(channels / RANK_DIVISOR)
        self.inner, self.rank, self.state_size, self.directions = inner, rank, state_size, directions
        self.in_proj = ConvNorm(channels, 2 * inner)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.act = nn.SiLU()
        # Rows: K * R step sizes, K * N rows of B, K * N rows of C.
        self.scan_proj = nn.Conv2d(inner, directions * (rank + 2 * state_size), 1, bias=False)
        self.step_weight = nn.Parameter(0.1 * torch.rand(directions, inner, rank))
        self.step_bias = nn.Parameter(0.1 * torch.rand(directions, inner))
        # Flattened over K and D as in the release, where the rank of a tensor decides its weight decay.
        self.A_log = nn.Parameter(torch.zeros(directions * inner, state_size))
        self.D_skip = nn.Parameter(torch.ones(directions * inner))
        self.out_norm = LayerNorm2d(inner, eps=1e-5)
        self.out_proj = ConvNorm(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x, (B, C, H, W)."""
        u, z = self.in_proj(x).chunk(2, dim=1)  # (B, D, H, W) each
        u = self.act(self.conv(u))
        y = selective_scan(u, *self.scan_inputs(u))  # (B, D, H, W), float32 or wider
        y = self.out_norm(y).to(z.dtype) * self.act(z)
        return self.out_proj(y)

    def scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return step logits (B, K, D, H, W), A_log (K, D, N), B and C (B, K, N, H, W), D_skip (K, D) for u."""
        k, d, n = self.directions, self.inner, self.state_size
        low_rank, B, C = self.scan_proj(u).split([k * self.rank, k * n, k * n], dim=1)
        step_logits = torch.conv2d(
            low_rank, self.step_weight.view(k * d, self.rank, 1, 1), self.step_bias.view(k * d), groups=k
        )
        return (
            step_logits.unflatten(1, (k, d)),
            self.A_log.view(k, d, n),
            B.unflatten(1, (k, n)),
            C.unflatten(1, (k, n)),
            self.D_skip.view(k, d),
        )
