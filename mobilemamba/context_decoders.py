"""DeepLabv3 and PSPNet as the paper uses them on ADE20K (section 4.2): on the coarsest map, at stride 64.

Both pool context from the last stage's map at several sizes. A second head on the stage before it learns the same
classes and runs only in training. Sizes are those of MMSegmentation's heads, which the paper used: a 3x3 convolution
after DeepLabv3's branches (torchvision has a 1x1 and then a 3x3 one), and 256 channels throughout.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import Conv2dNormActivation

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import require

ContextKind = Literal["deeplabv3", "pspnet"]

DILATIONS = (12, 24, 36)
POOLED_SIZES = (1, 2, 3, 6)


class ContextDecoder(nn.Module):
    """DeepLabv3 (Chen et al., arXiv:1706.05587) or PSPNet (Zhao et al., arXiv:1612.01105), without dilated stages.

    With B4 and 150 classes DeepLabv3 has 23.9 M parameters and PSPNet 21.4 M, 0.9 M of them in the second head; the
    paper says 23.4 M and 20.5 M.

    Args:
        network: The backbone; its classifier is removed.
        kind: Which of the two.
        num_classes: Classes of a pixel.
        channels: Channels of every convolution of the heads.
        drop_rate: Dropout of whole channels before the last convolutions.

    Raises:
        UserError: When the backbone has a single stage.
    """

    def __init__(
        self, network: MobileMamba, kind: ContextKind, num_classes: int, channels: int = 256, drop_rate: float = 0.1
    ) -> None:
        super().__init__()
        stages = network.config.num_stages
        require(stages > 1, "model.decoder", kind, f"'semantic_fpn' for a network of {stages} stage")
        before, last = network.config.widths[-2:]
        network.reset_classifier(0)
        self.network = network
        self.context = _spatial_pyramid(last, channels) if kind == "deeplabv3" else PyramidPooling(last, channels)
        self.classifier = nn.Sequential(nn.Dropout2d(drop_rate), nn.Conv2d(channels, num_classes, 1))
        self.auxiliary = nn.Sequential(
            Conv2dNormActivation(before, channels, 3), nn.Dropout2d(drop_rate), nn.Conv2d(channels, num_classes, 1)
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to logits (B, num_classes, H, W); in training, also to those of the second head."""
        before, last = self.network.forward_intermediates(images, indices=2, intermediates_only=True)
        size = images.shape[-2:]
        logits = F.interpolate(self.classifier(self.context(last)), size=size, mode="bilinear", align_corners=False)
        if not self.training:
            return logits
        return logits, F.interpolate(self.auxiliary(before), size=size, mode="bilinear", align_corners=False)


def _spatial_pyramid(in_channels: int, channels: int) -> ASPP:
    """Return DeepLabv3's branches: 1x1, three dilations, and the mean of the map."""
    pyramid = ASPP(in_channels, list(DILATIONS), channels)
    pyramid.project = Conv2dNormActivation(len(pyramid.convs) * channels, channels, 3)
    return pyramid


class PyramidPooling(nn.Module):
    """PSPNet's branches: the map itself and its means over 1, 4, 9 and 36 regions.

    Args:
        in_channels: Channels of the map.
        channels: Channels of each mean, and of what is returned.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(size), Conv2dNormActivation(in_channels, channels, 1))
            for size in POOLED_SIZES
        )
        self.project = Conv2dNormActivation(in_channels + len(POOLED_SIZES) * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H, W)."""
        size = x.shape[-2:]
        means = [F.interpolate(pool(x), size=size, mode="bilinear", align_corners=False) for pool in self.pools]
        return self.project(torch.cat([x, *means], dim=1))
