"""Layers with a BatchNorm that can be folded into their neighbour for inference.

Each gives ``fused()``: the equivalent layer without the norm, on the same device and in the same dtype. It is exact
only for the running statistics, so it is asked for in eval mode (:func:`mobilemamba.fuse` checks this).
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_Layer = TypeVar("_Layer", nn.Conv2d, nn.Linear)


class ConvNorm(nn.Module):
    """Bias-free convolution followed by BatchNorm.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Kernel size in pixels, odd; padding keeps the size at stride 1.
        stride: Stride in pixels.
        groups: Convolution groups.
        norm_weight_init: Start value of the BatchNorm weight; 0 makes a residual branch start as the identity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm_weight_init: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.constant_(self.norm.weight, norm_weight_init)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        return self.norm(self.conv(x))

    @torch.no_grad()
    def fused(self) -> nn.Conv2d | ChannelAffine:
        """Return one biased convolution equal to this layer in eval mode; of a depthwise 1x1 less is left."""
        conv, scale = self.conv, _scale(self.norm)
        if conv.groups == conv.in_channels == conv.out_channels and conv.kernel_size == conv.stride == (1, 1):
            return ChannelAffine(conv.weight.flatten() * scale, self.norm.bias - _mean(self.norm) * scale)
        return _with_parameters(
            nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,  # type: ignore[arg-type]  # nn.Conv2d types it wider than it stores it
                conv.stride,  # type: ignore[arg-type]
                conv.padding,  # type: ignore[arg-type]
                groups=conv.groups,
                device="meta",
            ),
            weight=conv.weight * scale.view(-1, 1, 1, 1),
            bias=self.norm.bias - _mean(self.norm) * scale,
        )


class ChannelAffine(nn.Module):
    """Multiplies and shifts each channel: a depthwise 1x1 convolution, which PyTorch runs channel by channel on CPUs.

    Args:
        weight: (C,).
        bias: (C,).
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.view(-1, 1, 1)), nn.Parameter(bias.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if torch.compiler.is_exporting():  # for graph runtimes it is one operator, and no change of layout, as that
            return F.conv2d(x, self.weight.unsqueeze(1), self.bias.flatten(), groups=len(self.weight))
        return torch.addcmul(self.bias, x, self.weight)


class NormLinear(nn.Module):
    """BatchNorm followed by a linear layer with bias: the classifier.

    Args:
        in_features: Input features.
        out_features: Outputs.
        drop_rate: Dropout between norm and linear layer.
    """

    def __init__(self, in_features: int, out_features: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(in_features)
        self.drop = nn.Dropout(drop_rate)
        self.linear = nn.Linear(in_features, out_features)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in) to (B, C_out)."""
        return self.linear(self.drop(self.norm(x)))

    @torch.no_grad()
    def fused(self) -> nn.Linear:
        """Return one linear layer equal to this one in eval mode."""
        linear, scale = self.linear, _scale(self.norm)
        shift = self.norm.bias - _mean(self.norm) * scale
        return _with_parameters(
            nn.Linear(linear.in_features, linear.out_features, device="meta"),
            weight=linear.weight * scale,
            bias=linear.bias + linear.weight @ shift,
        )


def _mean(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    assert norm.running_mean is not None  # both layers above track statistics
    return norm.running_mean


def _scale(norm: nn.modules.batchnorm._BatchNorm) -> Tensor:
    assert norm.running_var is not None
    return norm.weight * (norm.running_var + norm.eps).rsqrt()


def _with_parameters(layer: _Layer, weight: Tensor, bias: Tensor) -> _Layer:
    # Built on "meta" and given its tensors, so that it takes over device and dtype of its source.
    layer.weight = nn.Parameter(weight.contiguous())
    layer.bias = nn.Parameter(bias)
    return layer.eval()
