"""The form of a fused network that graphs are made from: modules are swapped once, before anything is traced.

What is fast in PyTorch is not what graph runtimes do well. They get loops over rows and columns of fixed size, or
products with small matrices where sizes are open (:mod:`.matrix_scan`); the inverse wavelet transform as a 1x1
convolution and a pixel shuffle, since phones' runtimes have no transposed convolution of groups, or a slow one; and
scales of channels as depthwise convolutions, which are one operator without a change of layout.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilemamba.bimamba import BiMamba, FusedInputProjection
from mobilemamba.conv_norm import ChannelAffine, Pointwise
from mobilemamba.export.matrix_scan import matrix_scan
from mobilemamba.scan.projected import split
from mobilemamba.scan.rows import channels_last_scan
from mobilemamba.wavelet import SUB_BANDS, haar_conv, haar_filters
from mobilemamba.wavelet_mamba import WaveletConv


@torch.no_grad()
def for_graphs(network: nn.Module, dynamic_size: bool) -> nn.Module:
    """Swap the modules of a fused network for those that graphs are made from, in place.

    Args:
        network: A fused network of the caller's own.
        dynamic_size: Whether height and width stay open.

    Returns:
        The network.
    """
    for name, child in network.named_children():
        match child:
            case BiMamba():
                setattr(network, name, GraphMamba(child, dynamic_size).eval())
            case WaveletConv():
                setattr(network, name, GraphWaveletConv(child).eval())
            case ChannelAffine():
                weight, bias = child.weight.unsqueeze(1), child.bias.flatten()
                setattr(network, name, _pointwise_convolution(weight, bias, groups=len(weight)))
            case _:
                for_graphs(child, dynamic_size)
    return network


class GraphMamba(nn.Module):
    """A fused BiMamba, channels last from the depthwise convolution on.

    Args:
        mamba: The block to take the weights from.
        dynamic_size: Whether height and width stay open.
    """

    def __init__(self, mamba: BiMamba, dynamic_size: bool) -> None:
        super().__init__()
        in_proj = cast(FusedInputProjection, mamba.in_proj)
        # Two convolutions: a graph runtime would copy both halves of one.
        self.u_proj, self.z_proj = (
            _pointwise_convolution(projection.weight[..., None, None], projection.bias)
            for projection in (in_proj.u_proj, in_proj.z_proj)
        )
        self.conv, self.out_norm = mamba.conv, mamba.out_norm
        self.x_proj, self.out_proj = cast(Pointwise, mamba.x_proj), cast(Pointwise, mamba.out_proj)
        self.dt_proj_weight, self.dt_proj_bias = mamba.dt_proj_weight, mamba.dt_proj_bias
        self.A_log, self.D = mamba.A_log, mamba.D
        self.dynamic_size = dynamic_size

    def forward(self, x: Tensor) -> Tensor:
        """Mix the pixels of x, (B, C, H, W)."""
        conv, norm = self.conv, self.out_norm
        u = F.conv2d(self.u_proj(x), conv.weight, conv.bias, padding=conv.padding, groups=conv.groups)
        u = F.silu(u.permute(0, 2, 3, 1))  # (B, H, W, D)
        z = F.silu(self.z_proj(x).permute(0, 2, 3, 1))
        y = F.layer_norm(self._scan(u), norm.normalized_shape, norm.weight, norm.bias, norm.eps) * z
        return F.linear(y, self.out_proj.weight, self.out_proj.bias).permute(0, 3, 1, 2)

    def _scan(self, u: Tensor) -> Tensor:
        """Make step sizes and scan u, (B, H, W, D) to the same shape."""
        weights = (self.dt_proj_weight, self.dt_proj_bias, self.A_log, self.D)
        if not self.dynamic_size:
            return channels_last_scan(u, F.linear(u, self.x_proj.weight), *weights).to(u.dtype)
        u = u.permute(0, 3, 1, 2)
        x_dbl = torch.conv2d(u, self.x_proj.weight[..., None, None])
        return matrix_scan(u, *split(x_dbl, *weights)).permute(0, 2, 3, 1).to(u.dtype)


class GraphWaveletConv(nn.Module):
    """A fused WaveletConv whose inverse transform is a 1x1 convolution, from four bands to four pixels.

    Args:
        conv: The layer to take the weights from.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, conv: WaveletConv) -> None:
        super().__init__()
        self.weights = conv.weights
        analysis = conv.analysis_filters
        synthesis = haar_filters().view(SUB_BANDS, -1, 1, 1).transpose(0, 1).repeat(len(analysis) // SUB_BANDS, 1, 1, 1)
        self.register_buffer("analysis", analysis)
        self.register_buffer("synthesis", synthesis.to(analysis))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x, (B, C, H, W), in the wavelet domain."""
        return haar_conv(x, list(self.weights), self.analysis, self.synthesis, inverse=pixel_synthesis)


def pixel_synthesis(bands: Tensor, per_pixel: Tensor) -> Tensor:
    """Return the inverse transform of bands, (B, 4C, H, W), to (B, C, 2H, 2W), by filters (4C, 4, 1, 1)."""
    return F.pixel_shuffle(F.conv2d(bands, per_pixel, groups=bands.shape[1] // SUB_BANDS), 2)


def _pointwise_convolution(weight: Tensor, bias: Tensor | None, groups: int = 1) -> nn.Conv2d:
    outputs, inputs = weight.shape[:2]
    convolution = nn.Conv2d(inputs * groups, outputs, 1, groups=groups, device="meta")
    convolution.weight, convolution.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
    return convolution.eval()
