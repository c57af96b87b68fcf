"""The residual parts of a MobileMamba block and the block itself (paper section 3.1, Figure 4)."""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from mobilemamba.config import MobileMambaConfig
from mobilemamba.conv_norm import ConvNorm
from mobilemamba.fusion import fuse_children
from mobilemamba.mrffi import MRFFI


class Residual(nn.Module):
    """Adds its input to the output of a branch that keeps the shape.

    Args:
        branch: Maps (B, C, H, W) to the same shape.
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.branch(x)

    @torch.no_grad()
    def fuse(self) -> nn.Module:
        """Merge the skip into a depthwise convolution by adding 1 at its centre; other branches stay as they are."""
        fuse_children(self)
        conv = self.branch
        if not isinstance(conv, nn.Conv2d) or not conv.groups == conv.in_channels == conv.out_channels:
            return self
        centre_row, centre_column = (size // 2 for size in conv.kernel_size)
        conv.weight[:, 0, centre_row, centre_column] += 1
        return conv


class FeedForward(nn.Module):
    """1x1 ConvNorm, ReLU, 1x1 ConvNorm.

    Args:
        channels: Input and output channels.
        expansion: Hidden width relative to channels.
    """

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(expansion * channels)
        self.expand = ConvNorm(channels, hidden)
        self.act = nn.ReLU()
        self.reduce = ConvNorm(hidden, channels, norm_weight_init=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.reduce(self.act(self.expand(x)))


def depthwise(channels: int, norm_weight_init: float) -> Residual:
    """Return a residual depthwise 3x3 ConvNorm."""
    return Residual(ConvNorm(channels, channels, 3, groups=channels, norm_weight_init=norm_weight_init))


def feed_forward(channels: int, expansion: float) -> Residual:
    """Return a residual feed-forward part."""
    return Residual(FeedForward(channels, expansion))


class Block(nn.Module):
    """Depthwise, feed-forward, mixer, depthwise, feed-forward, each residual, inside one outer residual.

    Args:
        config: The architecture.
        stage: Index of the stage.
        drop_path_rate: Chance that a sample skips the block in training.
    """

    def __init__(self, config: MobileMambaConfig, stage: int, drop_path_rate: float) -> None:
        super().__init__()
        width = config.widths[stage]
        self.conv_in = depthwise(width, norm_weight_init=0.0)
        self.ffn_in = feed_forward(width, config.ffn_expansion)
        self.mixer = Residual(MRFFI(config, stage)) if config.mixer_stages[stage] else nn.Identity()
        self.conv_out = depthwise(width, norm_weight_init=0.0)
        self.ffn_out = feed_forward(width, config.ffn_expansion)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = self.mixer(self.ffn_in(self.conv_in(x)))
        return x + self.drop_path(self.ffn_out(self.conv_out(y)))
