"""MK-DeConv: the local part of MRFFI, depthwise convolutions of several kernel sizes.

Paper section 3.2 (arXiv:2411.15941) splits the channels into n groups with kernels 3, 5, .., 2n + 1. The release
(github.com/lewandofskee/MobileMamba/blob/0980f48) uses one kernel per stage; that is a tuple of one here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobilemamba.conv_norm import ChannelAffine, ConvNorm


class MultiKernelConv(nn.Module):
    """Depthwise k x k ConvNorm, ReLU, depthwise 1x1 ConvNorm, with its own k for each group of channels.

    Args:
        channels: Channels C; groups differ by at most one channel, larger groups first.
        kernels: Kernel sizes in pixels, odd, one per group.
    """

    def __init__(self, channels: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        smaller, larger_groups = divmod(channels, len(kernels))
        self.group_channels = [smaller + (group < larger_groups) for group in range(len(kernels))]
        self.groups = nn.ModuleList(
            nn.Sequential(
                ConvNorm(group, group, kernel, groups=group),
                nn.ReLU(),
                ConvNorm(group, group, 1, groups=group),
            )
            for group, kernel in zip(self.group_channels, kernels, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if len(self.groups) == 1:
            return self.groups[0](x)
        parts = x.split(self.group_channels, dim=1)
        return torch.cat([group(part) for group, part in zip(self.groups, parts, strict=True)], dim=1)

    @torch.no_grad()
    def append_identity(self, channels: int) -> None:
        """Take more channels, in place, which leave as their positive part; the norms must have been folded.

        Args:
            channels: How many, behind those there are.
        """
        group = self.groups[-1]
        assert isinstance(group, nn.Sequential)
        conv, affine = group[0], group[2]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(affine, ChannelAffine)
        weight, bias = conv.weight, conv.bias  # (C, 1, k, k), (C,)
        assert bias is not None
        _, _, height, width = weight.shape
        centre = weight.new_zeros(channels, 1, height, width)
        centre[:, :, height // 2, width // 2] = 1
        self.group_channels[-1] += channels
        count = self.group_channels[-1]
        wider = nn.Conv2d(count, count, (height, width), groups=count, device="meta")
        wider.padding, wider.dilation = conv.padding, conv.dilation
        wider.weight = nn.Parameter(torch.cat([weight, centre]))
        wider.bias = nn.Parameter(torch.cat([bias, bias.new_zeros(channels)]))
        weight, bias = affine.weight.flatten(), affine.bias.flatten()
        wider_affine = ChannelAffine(
            torch.cat([weight, weight.new_ones(channels)]), torch.cat([bias, bias.new_zeros(channels)])
        )
        self.groups[-1] = nn.Sequential(wider, group[1], wider_affine)
