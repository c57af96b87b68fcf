"""Finer feature maps from the same weights: strides are removed, and later layers are dilated.

As in DeepLab (Chen et al., arXiv:1706.05587, section 3.1): at every d-th pixel a dilated layer computes what the layer
computed before. Convolutions are dilated; the global part of the mixer is no convolution and runs on each of the d x d
subgrids separately, so that scan and wavelets reach as far in pixels as before.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import require
from mobilemamba.wavelet_mamba import WaveletMamba


def keep_resolution(network: MobileMamba, output_stride: int) -> None:
    """Give the last feature maps of a network a finer stride, in place; names and shapes of its weights stay.

    Args:
        network: A network that is not fused.
        output_stride: Largest stride of a feature map in pixels; one of the stages' strides.

    Raises:
        UserError: When no stage has that stride.
    """
    strides = [network.config.stem_stride * 2**stage for stage in range(network.config.num_stages)]
    allowed = f"one of {', '.join(map(str, strides))}, the strides of the stages"
    require(output_stride in strides, "output_stride", output_stride, allowed)
    dilation = 1
    for stage, stride in zip(network.stages, strides, strict=True):
        for layer in _layers(stage):
            if isinstance(layer, WaveletMamba):
                layer.subgrid_dilation = dilation
                continue
            layer.dilation = (dilation, dilation)
            layer.padding = tuple(size // 2 * dilation for size in layer.kernel_size)
            if stride > output_stride and layer.stride == (2, 2):
                layer.stride = (1, 1)
                dilation *= 2
    for info in network.feature_info:
        info["reduction"] = min(info["reduction"], output_stride)


def _layers(module: nn.Module) -> Iterator[nn.Conv2d | WaveletMamba]:
    """Go through the convolutions and global mixers of a part, in the order in which they run."""
    if isinstance(module, (nn.Conv2d, WaveletMamba)):
        yield module
    else:
        for child in module.children():
            yield from _layers(child)
