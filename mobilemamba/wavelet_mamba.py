"""WTE-Mamba: the global part of MRFFI, a Mamba scan plus a convolution in the wavelet domain.

Paper section 3.2 (arXiv:2411.15941): ``s_m * BiMamba(x) + IDWT(s_w * DWConv(DWT(x)))``. The wavelet branch is that of
WTConv (Finder et al., ECCV 2024, arXiv:2407.05848).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mobilemamba import kernels
from mobilemamba.bimamba import BiMamba, FusedBiMamba
from mobilemamba.wavelet import SUB_BANDS, HaarAnalysis, HaarSynthesis

WAVELET_SCALE_INIT = 0.1


class ChannelScale(nn.Module):
    """Multiplies each channel of (B, C, H, W) with a learned weight of shape (1, C, 1, 1).

    Args:
        channels: Channels C.
        init: Start value.
    """

    def __init__(self, channels: int, init: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x, (B, C, H, W)."""
        return x * self.weight


class WaveletConv(nn.Module):
    """Depthwise convolution of Haar sub-bands, over one or more levels, (B, C, H, W) to the same shape.

    Each further level transforms the untouched low-low band of the level above; on the way back its result is added to
    that band's convolved form.

    Args:
        channels: Channels C.
        kernel_size: Kernel size in sub-band pixels, odd.
        levels: Levels of the transform.
    """

    def __init__(self, channels: int, kernel_size: int, levels: int = 1) -> None:
        super().__init__()
        bands = SUB_BANDS * channels
        self.analysis = HaarAnalysis(channels)
        self.synthesis = HaarSynthesis(channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(bands, bands, kernel_size, padding=kernel_size // 2, groups=bands, bias=False)
            for _ in range(levels)
        )
        self.scales = nn.ModuleList(ChannelScale(bands, WAVELET_SCALE_INIT) for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x, (B, C, H, W), in the wavelet domain."""
        if len(self.convs) == 1 and kernels.suit(x) and self._is_untouched():
            return self._by_kernel(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self._level(x, 0)

    def _is_untouched(self) -> bool:
        scale = self.scales[0]
        return kernels.untouched(
            (self.analysis, HaarAnalysis),
            (self.convs[0], nn.Conv2d),
            (scale, nn.Identity if isinstance(scale, nn.Identity) else ChannelScale),
            (self.synthesis, HaarSynthesis),
        )

    def _by_kernel(self, x: Tensor) -> Tensor:
        """The same as forward where there is one level, channels last."""
        from mobilemamba.kernels.wavelet import haar_conv  # imports Numba

        conv, scale = self.convs[0], self.scales[0]
        assert isinstance(conv, nn.Conv2d)
        weight = conv.weight * scale.weight.view(-1, 1, 1, 1) if isinstance(scale, ChannelScale) else conv.weight
        return haar_conv(x.float(), weight.float()).to(x.dtype)

    def _level(self, x: Tensor, level: int) -> Tensor:
        height, width = x.shape[-2:]
        bands = self.analysis(x)  # (B, 4C, H / 2, W / 2)
        convolved = self.scales[level](self.convs[level](bands))
        if level + 1 < len(self.convs):
            finer = self._level(bands[:, ::SUB_BANDS], level + 1)  # (B, C, H / 2, W / 2)
            low, high = convolved.unflatten(1, (-1, SUB_BANDS)).split([1, SUB_BANDS - 1], dim=2)
            convolved = torch.cat([low + finer.unsqueeze(2), high], dim=2).flatten(1, 2)
        return self.synthesis(convolved)[..., :height, :width]

    @torch.no_grad()
    def fused(self) -> WaveletConv:
        """Fold the scales into the convolutions, in place."""
        for level, (conv, scale) in enumerate(zip(self.convs, self.scales, strict=True)):
            if isinstance(scale, ChannelScale):
                assert isinstance(conv, nn.Conv2d)
                conv.weight.mul_(scale.weight.view(-1, 1, 1, 1))
                self.scales[level] = nn.Identity()
        return self


class WaveletMamba(nn.Module):
    """WTE-Mamba, (B, C, H, W) to the same shape; either branch can be left out.

    Args:
        channels: Channels C.
        mamba: The scan branch, or None.
        wavelet: The wavelet branch, or None.
    """

    def __init__(self, channels: int, mamba: BiMamba | None, wavelet: WaveletConv | None) -> None:
        super().__init__()
        self.mamba: BiMamba | FusedBiMamba | None = mamba
        self.mamba_scale: nn.Module | None = None if mamba is None else ChannelScale(channels, 1.0)
        self.wavelet = wavelet

    def forward(self, x: Tensor) -> Tensor:
        """Mix x, (B, C, H, W), over the whole map."""
        if self.mamba is None or self.mamba_scale is None:
            assert self.wavelet is not None  # the configuration demands one of both
            return self.wavelet(x)
        y = self.mamba_scale(self.mamba(x))
        return y if self.wavelet is None else y + self.wavelet(x)

    @torch.no_grad()
    def fused(self) -> WaveletMamba:
        """Fold the scan's scale into its output projection, in place."""
        if isinstance(self.mamba, FusedBiMamba) and isinstance(self.mamba_scale, ChannelScale):
            projection = self.mamba.out_proj
            assert isinstance(projection, nn.Conv2d)
            assert projection.bias is not None
            projection.weight.mul_(self.mamba_scale.weight.view(-1, 1, 1, 1))
            projection.bias.mul_(self.mamba_scale.weight.flatten())
            self.mamba_scale = nn.Identity()
        return self
