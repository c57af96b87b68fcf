"""The orthonormal Haar transform of feature maps, as grouped convolutions.

Sub-bands are interleaved per channel: four consecutive output channels belong to one input channel, in the order
low-low, high along H, high along W, high along both. "High" is (first - second) / sqrt(2), as in the release
(github.com/lewandofskee/MobileMamba/blob/0980f48, WTConv lineage: Finder et al., ECCV 2024, arXiv:2407.05848).
"""

from __future__ import annotations

import pywt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SUB_BANDS = 4
"""Sub-bands of one level of a 2-D transform."""


def haar_filters() -> Tensor:
    """Return the four 2x2 Haar filters, (4, 1, 2, 2) in float64, in the sub-band order of this module."""
    wavelet = pywt.Wavelet("haar")
    # PyWavelets stores filters for convolution; cross-correlation (what torch computes) needs them reversed.
    low = torch.tensor(wavelet.dec_lo[::-1], dtype=torch.float64)
    high = torch.tensor(wavelet.dec_hi[::-1], dtype=torch.float64)
    bands = [(low, low), (high, low), (low, high), (high, high)]  # (along H, along W)
    return torch.stack([torch.outer(along_h, along_w) for along_h, along_w in bands]).unsqueeze(1)


class HaarAnalysis(nn.Module):
    """One level of the transform: (B, C, H, W) to (B, 4C, ceil(H / 2), ceil(W / 2)).

    Args:
        channels: Input channels C.
    """

    filters: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        filters = haar_filters().repeat(channels, 1, 1, 1).to(torch.get_default_dtype())
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform x, (B, C, H, W); an odd side is zero-padded at its right or bottom end."""
        return F.conv2d(pad_to_even(x), self.filters.to(x.dtype), stride=2, groups=self.channels)


class HaarSynthesis(nn.Module):
    """The inverse: (B, 4C, H, W) to (B, C, 2H, 2W).

    It has its own filter tensors: one shared between both directions is exported wrongly by some runtimes.

    Args:
        channels: Output channels C.
    """

    filters: Tensor
    per_pixel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        filters = haar_filters().repeat(channels, 1, 1, 1).to(torch.get_default_dtype())
        self.register_buffer("filters", filters, persistent=False)
        # The same as a 1x1 convolution, from four bands to four pixels.
        per_pixel = haar_filters().view(SUB_BANDS, -1, 1, 1).transpose(0, 1).repeat(channels, 1, 1, 1)
        self.register_buffer("per_pixel", per_pixel.to(torch.get_default_dtype()), persistent=False)

    def forward(self, bands: Tensor) -> Tensor:
        """Transform bands, (B, 4C, H, W), back."""
        if torch.compiler.is_exporting():  # phones' runtimes have no transposed convolution of groups, or a slow one
            pixels = F.conv2d(bands, self.per_pixel.to(bands.dtype), groups=self.channels)
            return F.pixel_shuffle(pixels, 2)
        return F.conv_transpose2d(bands, self.filters.to(bands.dtype), stride=2, groups=self.channels)


def pad_to_even(x: Tensor) -> Tensor:
    """Zero-pad x, (B, C, H, W), at right and bottom to even height and width.

    In a graph of dynamic size every side gets one pixel: of an even side the strided transform drops it again, and
    the graph needs no arithmetic on sizes.
    """
    height, width = x.shape[-2:]
    if not isinstance(height, int) or not isinstance(width, int):
        return F.pad(x, (0, 1, 0, 1))
    if height % 2 == 0 and width % 2 == 0:
        return x  # a graph of fixed even size gets no padding node
    return F.pad(x, (0, width % 2, 0, height % 2))
