"""MRFFI, multi-receptive-field feature interaction: the token mixer of MobileMamba (paper section 3.2, Figure 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobilemamba.bimamba import BiMamba
from mobilemamba.config import ChannelSplit, MobileMambaConfig
from mobilemamba.conv_norm import ConvNorm
from mobilemamba.fusion import fuse_children
from mobilemamba.multi_kernel import MultiKernelConv
from mobilemamba.wavelet_mamba import WaveletConv, WaveletMamba


class MRFFI(nn.Module):
    """Splits channels into a global, a local and an identity part, mixes each its own way and projects the union.

    Args:
        config: The architecture.
        stage: Index of the stage, which decides shares and kernels.
    """

    def __init__(self, config: MobileMambaConfig, stage: int) -> None:
        super().__init__()
        width = config.widths[stage]
        self.split = config.channel_split(stage)
        self.global_mixer = _global_mixer(config, stage) if self.split.global_channels else None
        self.local_mixer = (
            MultiKernelConv(self.split.local_channels, config.local_kernels[stage])
            if self.split.local_channels
            else None
        )
        self.act = nn.ReLU()
        self.proj = ConvNorm(width, width, norm_weight_init=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        sizes = [channels for channels in self.split if channels]
        parts = iter(x.split(sizes, dim=1) if len(sizes) > 1 else [x])  # LiteRT knows no split into one
        mixed = [mixer(next(parts)) for mixer in (self.global_mixer, self.local_mixer) if mixer is not None]
        mixed += parts  # the identity part, if there is one
        return self.proj(self.act(torch.cat(mixed, dim=1)))

    def fuse(self) -> MRFFI:
        """Let the local part carry the identity part too, in place: one part less to split, and to join again.

        A local part hands non-negative values on untouched where its kernels are 1 at the centre, and what is negative
        the activation behind it removes anyway.
        """
        fuse_children(self)
        global_channels, local_channels, identity_channels = self.split
        if self.local_mixer is not None and identity_channels:
            self.local_mixer.append_identity(identity_channels)
            self.split = ChannelSplit(global_channels, local_channels + identity_channels, 0)
        return self


def _global_mixer(config: MobileMambaConfig, stage: int) -> WaveletMamba:
    channels = config.channel_split(stage).global_channels
    mamba = BiMamba(channels, config.scan_expansion, config.state_size, config.scan_directions) if config.scan else None
    wavelet = (
        WaveletConv(channels, config.wavelet_kernels[stage], config.wavelet_levels) if config.wavelet_levels else None
    )
    return WaveletMamba(channels, mamba, wavelet)
