"""WTE-Mamba: the global part of MRFFI, a Mamba scan plus a convolution in the wavelet domain.

Paper section 3.2 (arXiv:2411.15941): ``s_m * BiMamba(x) + IDWT(s_w * DWConv(DWT(x)))``. The wavelet branch is that of
WTConv (Finder et al., ECCV 2024, arXiv:2407.05848).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilemamba import dispatch
from mobilemamba.bimamba import BiMamba
from mobilemamba.conv_norm import Pointwise
from mobilemamba.fusion import fuse_children
from mobilemamba.wavelet import SUB_BANDS, haar_filters

WAVELET_SCALE_INIT = 0.1


class ChannelScale(nn.Module):
    """Multiplies each channel of (B, C, H, W) with a learned weight of shape (1, C, 1, 1).

    Args:
        channels: Channels C.
        init: Start value.
    """

    def __init__(self, channels: int, init: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x, (B, C, H, W)."""
        return x * self.weight


class WaveletConv(nn.Module):
    """Depthwise convolution of Haar sub-bands, over one or more levels, (B, C, H, W) to the same shape.

    Args:
        channels: Channels C.
        kernel_size: Kernel size in sub-band pixels, odd.
        levels: Levels of the transform.
    """

    analysis_filters: Tensor
    synthesis_filters: Tensor

    def __init__(self, channels: int, kernel_size: int, levels: int = 1) -> None:
        super().__init__()
        bands = SUB_BANDS * channels
        self.weights = nn.ParameterList(torch.empty(bands, 1, kernel_size, kernel_size) for _ in range(levels))
        self.scales = nn.ParameterList(torch.full((1, bands, 1, 1), WAVELET_SCALE_INIT) for _ in range(levels))
        for weight in self.weights:
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # as nn.Conv2d does
        for name in ("analysis_filters", "synthesis_filters"):
            self.register_buffer(name, torch.empty(bands, 1, 2, 2), persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """Fill the fixed filters, which no state dict holds (timm's hook for networks built on the meta device)."""
        for filters in (self.analysis_filters, self.synthesis_filters):
            filters.copy_(haar_filters().repeat(len(filters) // SUB_BANDS, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x, (B, C, H, W), in the wavelet domain."""
        weights: list[Tensor] = list(self.weights)
        if len(self.scales):
            scales: list[Tensor] = list(self.scales)
            weights = [weight * scale.view(-1, 1, 1, 1) for weight, scale in zip(weights, scales, strict=True)]
        return dispatch.haar_conv(x, weights, self.analysis_filters, self.synthesis_filters)

    @torch.no_grad()
    def fuse(self) -> WaveletConv:
        """Fold the scales into the kernels, in place."""
        scales: list[Tensor] = list(self.scales)
        for weight, scale in zip(self.weights, scales, strict=False):
            weight.data.mul_(scale.view(-1, 1, 1, 1))
        self.scales = nn.ParameterList()
        return self


class WaveletMamba(nn.Module):
    """WTE-Mamba, (B, C, H, W) to the same shape; either branch can be left out.

    Args:
        channels: Channels C.
        mamba: The scan branch, or None.
        wavelet: The wavelet branch, or None.
    """

    def __init__(self, channels: int, mamba: BiMamba | None, wavelet: WaveletConv | None) -> None:
        super().__init__()
        self.mamba = mamba
        self.mamba_scale: nn.Module | None = None if mamba is None else ChannelScale(channels, 1.0)
        self.wavelet = wavelet
        self.subgrid_dilation = 1  # see mobilemamba.dilation

    def forward(self, x: Tensor) -> Tensor:
        """Mix x, (B, C, H, W), over the whole map."""
        return self._mix(x) if self.subgrid_dilation == 1 else on_subgrids(self._mix, x, self.subgrid_dilation)

    def _mix(self, x: Tensor) -> Tensor:
        parts = [] if self.mamba is None or self.mamba_scale is None else [self.mamba_scale(self.mamba(x))]
        parts += [] if self.wavelet is None else [self.wavelet(x)]
        return sum(parts[1:], parts[0])

    @torch.no_grad()
    def fuse(self) -> WaveletMamba:
        """Fold the scan's scale into its output projection, in place."""
        fuse_children(self)
        if self.mamba is not None and isinstance(self.mamba_scale, ChannelScale):
            projection, scale = cast(Pointwise, self.mamba.out_proj), self.mamba_scale.weight.flatten()
            projection.weight.mul_(scale.unsqueeze(1))
            cast(Tensor, projection.bias).mul_(scale)
            self.mamba_scale = nn.Identity()
        return self


def on_subgrids(layer: Callable[[Tensor], Tensor], x: Tensor, dilation: int) -> Tensor:
    """Run a layer that keeps shapes on every d-th pixel of x, (B, C, H, W), once for each of the d x d offsets.

    Sizes that d does not divide are padded with zeros meanwhile.
    """
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, -width % dilation, 0, -height % dilation))
    grids = F.pixel_unshuffle(x, dilation).unflatten(1, (channels, dilation**2))
    y = layer(grids.transpose(1, 2).flatten(0, 1))  # (B d d, C, H / d, W / d)
    y = y.unflatten(0, (batch, dilation**2)).transpose(1, 2).flatten(1, 2)
    return F.pixel_shuffle(y, dilation)[..., :height, :width]
