"""BiMamba: a gated selective scan of a feature map in both raster directions.

Paper section 3.2 (arXiv:2411.15941); behaviour of SS2D in github.com/lewandofskee/MobileMamba/blob/0980f48. Here the
projections that make step sizes, B and C act on the map itself, as 1x1 convolutions: a projection per pixel commutes
with the order of pixels, so no flipped copy of the input is ever made.
"""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from mobilemamba import kernels
from mobilemamba.conv_norm import ConvNorm
from mobilemamba.scan import selective_scan
from mobilemamba.scan.rows import scan_map

RANK_DIVISOR = 16
"""The step-size projection has rank ceil(channels / 16)."""

LINEAR_SOFTPLUS = 30.0
"""From here on softplus(x) is x, but for 1e-13."""


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
        self.in_proj = ConvNorm(channels, 2 * inner)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.act = nn.SiLU()
        # Rows: K * R step sizes, K * N rows of B, K * N rows of C.
        self.x_proj = nn.Conv2d(inner, directions * (rank + 2 * state_size), 1, bias=False)
        self.dt_proj_weight = nn.Parameter(0.1 * torch.rand(directions, inner, rank))
        self.dt_proj_bias = nn.Parameter(0.1 * torch.rand(directions, inner))
        # Flattened over K and D as in the release, where the rank of a tensor decides its weight decay.
        self.A_log = nn.Parameter(torch.zeros(directions * inner, state_size))
        self.D = nn.Parameter(torch.ones(directions * inner))
        self.out_norm = LayerNorm2d(inner, eps=1e-5)
        self.out_proj = ConvNorm(inner, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x, (B, C, H, W)."""
        u, z = self.in_proj(x).chunk(2, dim=1)  # (B, D, H, W) each
        if kernels.suit(x) and _is_untouched(self):
            y = _mix_by_kernels(self, u.permute(0, 2, 3, 1), z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return self.out_proj(y)
        u = self.scanned(u)
        y = selective_scan(u, *self.scan_inputs(u))  # (B, D, H, W), float32 or wider
        y = self.out_norm(y.to(self.out_norm.weight.dtype)).to(z.dtype) * self.act(z)
        return self.out_proj(y)

    def scanned(self, u: Tensor) -> Tensor:
        """Return what is scanned, (B, D, H, W), for the first half of the input projection."""
        return self.act(self.conv(u))

    def scan_by_kernel(self, u: Tensor) -> Tensor:
        """Project and scan u, (B, H, W, D) to the same shape in float32, on a CPU."""
        return _scan_by_kernel(self, u)

    def scan_inputs(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return step logits (B, K, D, H, W), A_log (K, D, N), B and C (B, K, N, H, W), D (K, D) for u."""
        return scan_inputs(u, self.x_proj.weight, self.dt_proj_weight, self.dt_proj_bias, self.A_log, self.D)

    def fused(self) -> FusedBiMamba:
        """Return the form for inference; the projections must be plain convolutions already."""
        return FusedBiMamba(self)


class FusedBiMamba(nn.Module):
    """A BiMamba for inference, channels last from the scan on: fewer operators, and no copy between layouts.

    Args:
        mamba: The block to take the weights from, whose projections have no norms any more.
    """

    def __init__(self, mamba: BiMamba) -> None:
        super().__init__()
        assert isinstance(mamba.in_proj, nn.Conv2d)
        assert isinstance(mamba.out_proj, nn.Conv2d)
        # Two convolutions, since a graph runtime would copy both halves of one.
        self.u_proj, self.z_proj = _halves(mamba.in_proj)
        self.conv, self.act, self.x_proj = mamba.conv, mamba.act, mamba.x_proj
        self.dt_proj_weight, self.dt_proj_bias = mamba.dt_proj_weight, mamba.dt_proj_bias
        self.A_log, self.D = mamba.A_log, mamba.D
        self.out_norm, self.out_proj = mamba.out_norm, mamba.out_proj

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x, (B, C, H, W)."""
        projections = ((self.u_proj, nn.Conv2d), (self.z_proj, nn.Conv2d), (self.out_proj, nn.Conv2d))
        if kernels.suit(x) and _is_untouched(self) and kernels.untouched(*projections):
            return self._by_kernels(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        u = self.act(self.conv(self.u_proj(x)).permute(0, 2, 3, 1))  # (B, H, W, D)
        z = self.act(self.z_proj(x).permute(0, 2, 3, 1))
        y = self._scan_rows(u) if _suits_rows(u) else self._scan(u)
        norm, projection = self.out_norm, self.out_proj
        y = F.layer_norm(y.to(norm.weight.dtype), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        y = y.to(z.dtype) * z
        return F.linear(y, projection.weight.flatten(1), projection.bias).permute(0, 3, 1, 2)

    def _scan(self, u: Tensor) -> Tensor:
        u = u.permute(0, 3, 1, 2)
        inputs = scan_inputs(u, self.x_proj.weight, self.dt_proj_weight, self.dt_proj_bias, self.A_log, self.D)
        return selective_scan(u, *inputs).permute(0, 2, 3, 1)

    def _by_kernels(self, x: Tensor) -> Tensor:
        """The same as forward, channels last."""
        u, z = (F.linear(x, layer.weight.flatten(1), layer.bias) for layer in (self.u_proj, self.z_proj))
        y = _mix_by_kernels(self, u, z)
        return F.linear(y, self.out_proj.weight.flatten(1), self.out_proj.bias)

    def scan_by_kernel(self, u: Tensor) -> Tensor:
        """See :meth:`BiMamba.scan_by_kernel`; ``benchmarks/ceiling.py`` puts a block without scan in its place."""
        return _scan_by_kernel(self, u)

    def _scan_rows(self, u: Tensor) -> Tensor:
        """The same as _scan, (B, H, W, D) to the same shape, by :func:`.scan.rows.scan_map`."""
        k, d, r = self.dt_proj_weight.shape
        n = self.A_log.shape[-1]
        dtype = torch.promote_types(u.dtype, torch.float32)
        low_rank, B, C = F.linear(u, self.x_proj.weight.flatten(1)).split([k * r, k * n, k * n], dim=-1)
        # Columns of B carry the sign that the step sizes lack.
        low_rank, B, C = low_rank.split(r, dim=-1), (-B).to(dtype).split(1, dim=-1), C.to(dtype).split(1, dim=-1)
        rate = torch.exp(self.A_log.to(dtype)).view(k, d, n)
        outputs = []
        for direction in range(k):
            logits = F.linear(low_rank[direction], -self.dt_proj_weight[direction], -self.dt_proj_bias[direction])
            negative_step = _negative_softplus(logits.to(dtype))
            for state in range(n):
                column = direction * n + state
                decay = torch.exp(negative_step * rate[direction, :, state])
                drive = negative_step * (u * B[column])
                outputs.append(C[column] * scan_map(decay, drive, direction))
        # A subtraction, since graph optimisers merge an addition with the norm after it into one slower node.
        return reduce(torch.add, outputs) - u * -self.D.to(dtype).view(k, d).sum(0)


def scan_inputs(
    u: Tensor, scan_weight: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Project a feature map to what its scan needs.

    Args:
        u: (B, D, H, W).
        scan_weight: (K * (R + 2N), D, 1, 1).
        dt_proj_weight: (K, D, R).
        dt_proj_bias: (K, D).
        A_log: (K * D, N).
        D: (K * D,).

    Returns:
        Step logits (B, K, D, H, W), A_log (K, D, N), B and C (B, K, N, H, W), D (K, D).
    """
    k, d, r = dt_proj_weight.shape
    n = A_log.shape[-1]
    low_rank, B, C = torch.conv2d(u, scan_weight).split([k * r, k * n, k * n], dim=1)
    dt = torch.conv2d(low_rank, dt_proj_weight.view(k * d, r, 1, 1), dt_proj_bias.view(k * d), groups=k)
    return (
        dt.unflatten(1, (k, d)),
        A_log.view(k, d, n),
        B.unflatten(1, (k, n)),
        C.unflatten(1, (k, n)),
        D.view(k, d),
    )


def _mix_by_kernels(mamba: BiMamba | FusedBiMamba, u: Tensor, z: Tensor) -> Tensor:
    """Convolve and scan u, normalise, and gate by z: what lies between the projections of a block, (B, H, W, D)."""
    from mobilemamba.kernels.depthwise import depthwise_silu  # these import Numba
    from mobilemamba.kernels.gated_norm import gated_norm

    norm, conv = mamba.out_norm, mamba.conv
    assert conv.bias is not None
    u = depthwise_silu(u.float(), conv.weight.float(), conv.bias.float()).to(z.dtype)
    y = mamba.scan_by_kernel(u)
    return gated_norm(y.float(), z.float(), norm.weight.float(), norm.bias.float(), norm.eps).to(z.dtype)


def _is_untouched(mamba: BiMamba | FusedBiMamba) -> bool:
    return kernels.untouched(
        (mamba.conv, nn.Conv2d), (mamba.act, nn.SiLU), (mamba.x_proj, nn.Conv2d), (mamba.out_norm, LayerNorm2d)
    )


def _scan_by_kernel(mamba: BiMamba | FusedBiMamba, u: Tensor) -> Tensor:
    from mobilemamba.kernels.scan import projected_scan  # imports Numba

    projected = F.linear(u, mamba.x_proj.weight.flatten(1))
    weights = (mamba.dt_proj_weight, mamba.dt_proj_bias, mamba.A_log, mamba.D)
    return projected_scan(*(x.float() for x in (u, projected, *weights)))


def _suits_rows(u: Tensor) -> bool:
    """Return whether the loop over rows is faster: on CPUs, where the size is known; other devices want few kernels."""
    return u.device.type == "cpu" and all(isinstance(size, int) for size in u.shape[1:3])


def _negative_softplus(negative: Tensor) -> Tensor:
    """Return -softplus(-negative), of faster operators: the usual ones are no vector instructions on CPUs."""
    return torch.minimum(negative, torch.log(torch.sigmoid(negative.clamp(min=-LINEAR_SOFTPLUS))))


def _halves(projection: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Split the outputs of a 1x1 convolution with bias in two."""
    assert projection.bias is not None
    first, second = (
        _pointwise(weight, bias)
        for weight, bias in zip(projection.weight.chunk(2), projection.bias.chunk(2), strict=True)
    )
    return first, second


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    convolution.weight, convolution.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return convolution
