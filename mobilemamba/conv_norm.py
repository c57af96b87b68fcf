"""Layers with a BatchNorm that can be folded into their neighbour for inference.

``fuse()`` returns the equivalent layer without the norm, on the same device and in the same dtype. It uses the running
statistics, so the network must be in eval mode (:func:`mobilemamba.fuse` checks this).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
    def fuse(self) -> nn.Conv2d | ChannelAffine:
        """Return one biased convolution equal to this layer in eval mode; a depthwise 1x1 becomes a ChannelAffine."""
        conv = fuse_conv_bn_eval(self.conv, self.norm)
        if conv.groups == conv.in_channels == conv.out_channels and conv.kernel_size == conv.stride == (1, 1):
            return ChannelAffine(conv.weight.flatten(), cast(Tensor, conv.bias))
        return conv


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
    def fuse(self) -> nn.Linear:
        """Return one linear layer equal to this one in eval mode."""
        norm, linear = self.norm, self.linear
        mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)  # it tracks statistics
        scale = norm.weight * (variance + norm.eps).rsqrt()
        shift = norm.bias - mean * scale
        # Built on "meta" and given its tensors, so that it takes over device and dtype of its source.
        fused = nn.Linear(linear.in_features, linear.out_features, device="meta")
        fused.weight = nn.Parameter(linear.weight * scale)
        fused.bias = nn.Parameter(linear.bias + linear.weight @ shift)
        return fused.eval()


class Pointwise(nn.Module):
    """A 1x1 convolution as a matrix product with channels-last output: inside a fused BiMamba no map is copied.

    Args:
        weight: (C_out, C_in, 1, 1).
        bias: (C_out,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().flatten(1).clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        batch, channels, height, width = x.shape
        # Pixels in one dimension: of four, compilers make a product for each row where a part of the channels is given.
        y = F.linear(x.permute(0, 2, 3, 1).reshape(-1, channels), self.weight, self.bias)
        return y.view(batch, height, width, len(self.weight)).permute(0, 3, 1, 2)
