"""Stem, downsampling and stages, which surround the blocks (paper section 3.1, Figure 4)."""

from __future__ import annotations

from timm.layers import SqueezeExcite
from timm.models import checkpoint_seq
from torch import Tensor, nn

from mobilemamba import dispatch
from mobilemamba.blocks import Block, depthwise, feed_forward
from mobilemamba.config import MobileMambaConfig
from mobilemamba.conv_norm import ConvNorm

MERGE_EXPANSION = 4
SQUEEZE_RATIO = 0.25


class Stem(nn.Sequential):
    """3x3 stride-2 ConvNorms of doubling width with ReLU between them: (B, C_in, H, W) to stride stem_stride.

    Args:
        config: The architecture.
    """

    def __init__(self, config: MobileMambaConfig) -> None:
        layers: list[nn.Module] = []
        channels, stride = config.in_chans, 1
        while stride < config.stem_stride:
            stride *= 2
            width = config.widths[0] * stride // config.stem_stride
            layers += [ConvNorm(channels, width, 3, stride=2), nn.ReLU()]
            channels = width
        super().__init__(*layers[:-1])


class PatchMerging(nn.Module):
    """Inverted residual without skip that halves the resolution, with squeeze-excitation.

    Args:
        in_channels: Channels before.
        out_channels: Channels after.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = MERGE_EXPANSION * in_channels
        self.expand = ConvNorm(in_channels, hidden)
        self.conv = ConvNorm(hidden, hidden, 3, stride=2, groups=hidden)
        self.act = nn.ReLU()
        self.squeeze_excite = SqueezeExcite(hidden, SQUEEZE_RATIO)
        self.reduce = ConvNorm(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, ceil(H / 2), ceil(W / 2))."""
        x = self.act(self.conv(self.act(self.expand(x))))
        return self.reduce(self.squeeze_excite(x))


class Downsample(nn.Sequential):
    """Patch merging, with residual depthwise and feed-forward parts before it (old width) and after it (new width).

    Args:
        in_channels: Channels before.
        out_channels: Channels after.
        ffn_expansion: Hidden width of the feed-forward parts, relative to the channels.
    """

    def __init__(self, in_channels: int, out_channels: int, ffn_expansion: float) -> None:
        super().__init__(
            depthwise(in_channels, norm_weight_init=1.0),
            feed_forward(in_channels, ffn_expansion),
            PatchMerging(in_channels, out_channels),
            depthwise(out_channels, norm_weight_init=1.0),
            feed_forward(out_channels, ffn_expansion),
        )


class Stage(nn.Module):
    """Downsampling (from the second stage on) and blocks at one resolution.

    Args:
        config: The architecture.
        stage: Index of the stage.
        drop_path_rates: One rate per block.
    """

    def __init__(self, config: MobileMambaConfig, stage: int, drop_path_rates: list[float]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = (
            Downsample(config.widths[stage - 1], config.widths[stage], config.ffn_expansion) if stage else nn.Identity()
        )
        self.blocks = nn.Sequential(*(Block(config, stage, rate) for rate in drop_path_rates))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, H, W), or to half the resolution if the stage begins with downsampling."""
        x = self.downsample(dispatch.channels_last(x))
        if self.grad_checkpointing and self.training:
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)
