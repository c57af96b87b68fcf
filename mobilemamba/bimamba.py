"""BiMamba: a gated selective scan of a feature map in both raster directions.

Paper section 3.2 (arXiv:2411.15941); behaviour of SS2D in github.com/lewandofskee/MobileMamba/blob/0980f48. Here the
projections that make dt, B and C act on the map itself, as 1x1 convolutions: a projection per pixel commutes with the
order of pixels, so no flipped copy of the input is ever made.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from mobilemamba import dispatch
from mobilemamba.conv_norm import ConvNorm, Pointwise

RANK_DIVISOR = 16
"""dt_proj has rank ceil(channels / 16)."""


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
        self.in_proj: InputProjection | FusedInputProjection = InputProjection(channels, 2 * inner)
        self.conv = DepthwiseSiLU(inner)
        # Rows: K * R of low-rank dt, K * N of B, K * N of C.
        self.x_proj: nn.Conv2d | Pointwise = nn.Conv2d(inner, directions * (rank + 2 * state_size), 1, bias=False)
        self.dt_proj_weight = nn.Parameter(0.1 * torch.rand(directions, inner, rank))
        self.dt_proj_bias = nn.Parameter(0.1 * torch.rand(directions, inner))
        # Flattened over K and D as in the release, where the rank of a tensor decides its weight decay.
        self.A_log = nn.Parameter(torch.zeros(directions * inner, state_size))
        self.D = nn.Parameter(torch.ones(directions * inner))
        self.out_norm = GatedNorm(inner)
        self.out_proj: ConvNorm | Pointwise = ConvNorm(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x, (B, C, H, W)."""
        u, z = self.in_proj(x)  # (B, D, H, W) each
        return self.out_proj(self._scan_and_gate(u, z))

    def _scan_and_gate(self, u: Tensor, z: Tensor) -> Tensor:
        conv, x_proj, norm = self.conv, self.x_proj, self.out_norm
        scan_weights = self.dt_proj_weight, self.dt_proj_bias, self.A_log, self.D
        kernels = dispatch.recomputing_kernels(u, {conv: DepthwiseSiLU, x_proj: nn.Conv2d, norm: GatedNorm})
        is_as_built = conv.bias is not None and x_proj.bias is None and x_proj.weight.shape[1:] == (u.shape[1], 1, 1)
        if kernels is not None and is_as_built:
            weights = conv.weight, conv.bias, x_proj.weight, *scan_weights, norm.weight, norm.bias
            return kernels.gated_scan(u, z, *weights, eps=norm.eps)
        u = conv(u)
        return norm(dispatch.projected_scan(u, x_proj(u), *scan_weights), z)

    @torch.no_grad()
    def fuse(self) -> BiMamba:
        """Fold the norms of the projections, in place."""
        if isinstance(self.in_proj, InputProjection):
            self.in_proj = self.in_proj.fuse()
        if isinstance(self.x_proj, nn.Conv2d):
            self.x_proj = Pointwise(self.x_proj.weight, None)
        if isinstance(self.out_proj, ConvNorm):
            out_proj = self.out_proj.fuse()
            self.out_proj = Pointwise(out_proj.weight, out_proj.bias)
        return self


class InputProjection(ConvNorm):
    """1x1 ConvNorm whose outputs are split in two: what is scanned, and its gate."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # two maps
        """Map (B, C, H, W) to u and z, (B, D, H, W) each."""
        u, z = super().forward(x).chunk(2, dim=1)
        return u, z

    def fuse(self) -> FusedInputProjection:  # type: ignore[override]
        """Return two biased projections equal to this one in eval mode."""
        conv = super().fuse()
        return FusedInputProjection(conv.weight, cast(Tensor, conv.bias))


class FusedInputProjection(nn.Module):
    """The input projection without norm, as one product for each half: no copy is made to take them apart.

    Args:
        weight: (2D, C, 1, 1).
        bias: (2D,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        (u_weight, z_weight), (u_bias, z_bias) = weight.chunk(2), bias.chunk(2)
        self.u_proj, self.z_proj = Pointwise(u_weight, u_bias), Pointwise(z_weight, z_bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, H, W) to u and z, (B, D, H, W) each."""
        return self.u_proj(x), self.z_proj(x)


class DepthwiseSiLU(nn.Conv2d):
    """Depthwise 3x3 convolution with bias, and SiLU.

    Args:
        channels: Channels D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, u: Tensor) -> Tensor:
        """Map (B, D, H, W) to the same shape."""
        return dispatch.depthwise_silu(u, self.weight, self.bias)


class GatedNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map, times SiLU of a gate.

    Args:
        channels: Channels D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5)

    def forward(self, y: Tensor, z: Tensor) -> Tensor:  # type: ignore[override]  # a gate besides
        """Normalise y and gate it by z, (B, D, H, W) both, to the same shape in the dtype of z."""
        return dispatch.gated_norm(y, z, self.weight, self.bias, self.eps)
