"""Feature maps for detectors: the paper's pyramid, and the levels of its SSDLite (arXiv:2411.15941, section 4.2).

Both map images to named levels and have ``out_channels``, as torchvision's detectors expect of a backbone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import require

SSDLITE_EXTRA_CHANNELS = (512, 256, 256, 128)


class FeaturePyramid(nn.Module):
    """The pyramid of EfficientViT's detectors (arXiv:2305.07027), which MobileMamba's detectors use too.

    1x1 convolutions bring the stages' maps to one width. Each coarser map is added to the next finer one (nearest
    upsampling), and 2x2 stride-2 transposed convolutions add levels finer than the finest. A 3x3 convolution follows
    each level. 3x3 stride-2 convolutions of the last stage's map add coarser levels; this gives the published number of
    parameters.

    Args:
        network: The backbone; its classifier is removed.
        channels: Channels of every level.
        finer_levels: Levels finer than the first stage: 2 for Mask R-CNN (strides 4 to 64), 1 for RetinaNet.
        coarser_levels: Levels coarser than the last stage: 1 for RetinaNet (strides 8 to 128).

    Raises:
        UserError: When a finer level would be finer than the image.
    """

    def __init__(
        self, network: MobileMamba, channels: int = 256, finer_levels: int = 1, coarser_levels: int = 1
    ) -> None:
        super().__init__()
        most = network.config.stem_stride.bit_length() - 1
        require(0 <= finer_levels <= most, "finer_levels", finer_levels, f"from 0 to {most}: the stem's strides of two")
        network.reset_classifier(0)
        self.network = network
        self.out_channels = channels
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in network.config.widths)
        self.finer = nn.ModuleList(nn.ConvTranspose2d(channels, channels, 2, stride=2) for _ in range(finer_levels))
        levels = finer_levels + len(self.laterals)
        self.smoothing = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(levels))
        widths = (network.config.widths[-1], *([channels] * coarser_levels))
        self.coarser = nn.ModuleList(
            nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths[:coarser_levels]
        )

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Map images (B, C, H, W) to levels (B, channels, H / stride, W / stride), finest first, by "0", "1", ..."""
        maps = self.network.forward_intermediates(images, intermediates_only=True)
        laterals = [lateral(feature) for lateral, feature in zip(self.laterals, maps, strict=True)]
        for coarse in range(len(laterals) - 1, 0, -1):
            fine = laterals[coarse - 1]
            laterals[coarse - 1] = fine + F.interpolate(laterals[coarse], size=fine.shape[-2:], mode="nearest")
        for finer in self.finer:
            laterals.insert(0, finer(laterals[0]))
        levels: list[Tensor] = [smooth(lateral) for smooth, lateral in zip(self.smoothing, laterals, strict=True)]
        coarsest = maps[-1]
        for coarser in self.coarser:
            coarsest = coarser(coarsest)
            levels.append(coarsest)
        return OrderedDict((str(index), level) for index, level in enumerate(levels))


class SSDLiteLevels(nn.Module):
    """The maps of all stages but the last, and four more levels by depthwise stride-2 convolutions.

    Args:
        network: The backbone; its classifier and its last stage are removed.
        extra_channels: Channels of the additional levels.
    """

    def __init__(self, network: MobileMamba, extra_channels: tuple[int, ...] = SSDLITE_EXTRA_CHANNELS) -> None:
        super().__init__()
        stem_levels = network.config.num_stem_levels
        network.prune_intermediate_layers(list(range(stem_levels, len(network.feature_info) - 1)))
        self.network = network
        widths = network.config.widths[:-1]
        self.out_channels = [*widths, *extra_channels]
        before = (widths[-1], *extra_channels)
        self.extra = nn.ModuleList(_halve(*pair) for pair in zip(before[:-1], extra_channels, strict=True))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Map images (B, C, H, W) to levels (B, out_channels[i], ...), finest first, by "0", "1", ..."""
        levels: list[Any] = list(self.network.forward_intermediates(images, intermediates_only=True))
        for halve in self.extra:
            levels.append(halve(levels[-1]))
        return OrderedDict((str(index), level) for index, level in enumerate(levels))


def _halve(in_channels: int, out_channels: int) -> nn.Sequential:
    hidden = out_channels // 2

    def layer(inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03), nn.ReLU6()]

    return nn.Sequential(
        *layer(in_channels, hidden), *layer(hidden, hidden, 3, 2, groups=hidden), *layer(hidden, out_channels)
    )
