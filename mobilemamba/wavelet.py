"""The orthonormal Haar transform of feature maps, as grouped convolutions.

Sub-bands are interleaved per channel: four consecutive output channels belong to one input channel, in the order
low-low, high along H, high along W, high along both. "High" is (first - second) / sqrt(2), as in the release
(github.com/lewandofskee/MobileMamba/blob/0980f48, WTConv lineage: Finder et al., ECCV 2024, arXiv:2407.05848).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pywt
import torch
import torch.nn.functional as F
from torch import Tensor

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


def haar_analysis(x: Tensor, filters: Tensor) -> Tensor:
    """One level of the transform: (B, C, H, W) to (B, 4C, ceil(H / 2), ceil(W / 2)).

    Args:
        x: Feature map; an odd side is zero-padded at its right or bottom end.
        filters: :func:`haar_filters` repeated for each channel, (4C, 1, 2, 2).
    """
    return F.conv2d(pad_to_even(x), filters.to(x.dtype), stride=2, groups=x.shape[1])


def haar_synthesis(bands: Tensor, filters: Tensor) -> Tensor:
    """The inverse: (B, 4C, H, W) to (B, C, 2H, 2W).

    Args:
        bands: Sub-bands.
        filters: As for :func:`haar_analysis`.
    """
    return F.conv_transpose2d(bands, filters.to(bands.dtype), stride=2, groups=bands.shape[1] // SUB_BANDS)


def haar_conv(
    x: Tensor,
    weights: Sequence[Tensor],
    analysis: Tensor,
    synthesis: Tensor,
    inverse: Callable[[Tensor, Tensor], Tensor] = haar_synthesis,
) -> Tensor:
    """Convolve the sub-bands of x, (B, C, H, W), and transform them back, to the same shape.

    Each further level transforms the low-low band of the level above, before its convolution. On the way back its
    result is added to the convolved band.

    Args:
        x: Feature map.
        weights: Depthwise kernels of each level, (4C, 1, k, k).
        analysis: Filters of the transform, (4C, 1, 2, 2).
        synthesis: Filters of its inverse. They are the same, but some exporters fail if one tensor is used for both.
        inverse: Transforms bands back with ``synthesis``.
    """
    height, width = x.shape[-2:]
    bands = haar_analysis(x, analysis)
    convolved = F.conv2d(bands, weights[0], padding=weights[0].shape[-1] // 2, groups=bands.shape[1])
    if len(weights) > 1:
        finer = haar_conv(bands[:, ::SUB_BANDS], weights[1:], analysis, synthesis, inverse)  # (B, C, H / 2, W / 2)
        low, high = convolved.unflatten(1, (-1, SUB_BANDS)).split([1, SUB_BANDS - 1], dim=2)
        convolved = torch.cat([low + finer.unsqueeze(2), high], dim=2).flatten(1, 2)
    return inverse(convolved, synthesis)[..., :height, :width]


def merged_haar_conv(x: Tensor, weights: Sequence[Tensor], synthesis: Tensor) -> Tensor:
    """The same as :func:`haar_conv`, of sums instead of grouped convolutions: compilers merge them with what is around.

    Bands lie one behind the other here, so that neighbours in memory belong to neighbouring channels.

    Args:
        x: Feature map, (B, C, H, W).
        weights: As there.
        synthesis: As there.
    """
    channels, height, width = x.shape[1:]
    x = F.pad(x, (0, width % 2, 0, height % 2))
    left, right = x[..., ::2], x[..., 1::2]
    low, high = left + right, left - right  # along W
    low_low, high_low = low[..., ::2, :] + low[..., 1::2, :], low[..., ::2, :] - low[..., 1::2, :]
    low_high, high_high = high[..., ::2, :] + high[..., 1::2, :], high[..., ::2, :] - high[..., 1::2, :]
    bands = 0.5 * torch.cat([low_low, high_low, low_high, high_high], dim=1)  # (B, 4C, H / 2, W / 2)
    size = weights[0].shape[-1]
    taps = weights[0].view(channels, SUB_BANDS, size, size).transpose(0, 1).reshape(-1, 1, size, size)
    convolved = list(F.conv2d(bands, taps, padding=size // 2, groups=len(taps)).chunk(SUB_BANDS, dim=1))
    if len(weights) > 1:
        convolved[0] = convolved[0] + merged_haar_conv(bands[:, :channels], weights[1:], synthesis)
    # Each band meets its filter, (2, 2), in maps of (B, C, H / 2, 2, W / 2, 2).
    filters = synthesis[:SUB_BANDS].to(x.dtype).view(SUB_BANDS, 2, 1, 2)
    pixels = [band[:, :, :, None, :, None] * taps for band, taps in zip(convolved, filters, strict=True)]
    return sum(pixels[1:], pixels[0]).reshape(x.shape)[..., :height, :width]


def pad_to_even(x: Tensor) -> Tensor:
    """Zero-pad x, (B, C, H, W), at right and bottom to even height and width.

    In a graph of dynamic size every side gets one pixel, so that the graph needs no arithmetic on sizes; the strided
    transform drops it again from even sides.
    """
    height, width = x.shape[-2:]
    if not isinstance(height, int) or not isinstance(width, int):
        return F.pad(x, (0, 1, 0, 1))
    if height % 2 == 0 and width % 2 == 0:
        return x  # a graph of fixed even size gets no padding node
    return F.pad(x, (0, width % 2, 0, height % 2))
