"""Semantic FPN (Kirillov et al., arXiv:1901.02446), which the paper uses on ADE20K (section 4.2)."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from mobilemamba.backbone import MobileMamba
from mobilemamba.pyramid import FeaturePyramid


class SemanticFPN(nn.Module):
    """The pyramid of the stages; convolutions and upsampling bring each level to the finest size, and all are summed.

    B4 has 19.7 M parameters with the defaults and 150 classes; the paper says 19.8 M.

    Args:
        network: The backbone; its classifier is removed.
        num_classes: Classes of a pixel.
        pyramid_channels: Channels of the pyramid.
        head_channels: Channels of the sum.
        drop_rate: Dropout of whole channels before the last convolution.
    """

    def __init__(
        self,
        network: MobileMamba,
        num_classes: int,
        pyramid_channels: int = 256,
        head_channels: int = 128,
        drop_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(network, pyramid_channels, finer_levels=0, coarser_levels=0)
        self.scales = nn.ModuleList()
        for level in range(network.config.num_stages):
            widths = (pyramid_channels, *([head_channels] * max(level, 1)))
            self.scales.append(
                nn.ModuleList(
                    nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())
                    for before, after in pairwise(widths)
                )
            )
        self.drop = nn.Dropout2d(drop_rate)
        self.classifier = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, num_classes, H, W)."""
        levels = list(self.pyramid(images).values())
        sizes = [level.shape[-2:] for level in levels]
        total = images.new_zeros(())
        for index, (x, scale) in enumerate(zip(levels, self.scales, strict=True)):
            for step, conv in enumerate(cast(nn.ModuleList, scale)):
                x = conv(x)
                if index:
                    x = F.interpolate(x, size=sizes[index - step - 1], mode="bilinear", align_corners=False)
            total = total + x
        logits = self.classifier(self.drop(total))
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)
