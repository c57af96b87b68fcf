"""The architecture of a MobileMamba as one frozen, validated dataclass.

Every layout of the paper (arXiv:2411.15941) is a value of :class:`MobileMambaConfig`; the defaults are MobileMamba-S6.
The published variants are listed in :mod:`mobilemamba.variants`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mobilemamba.errors import require

GLOBAL_CHANNEL_MULTIPLE = 16
"""The global part of a stage is rounded to this many channels, as in the release."""

POOLINGS = ("avg", "max", "avgmax", "catavgmax")
"""Poolings of timm's SelectAdaptivePool2d; each also exists with the prefix "fast"."""


class ChannelSplit(NamedTuple):
    """How MRFFI divides the channels of a block, in this order."""

    global_channels: int
    local_channels: int
    identity_channels: int


@dataclass(frozen=True)
class MobileMambaConfig:
    """Architecture of a MobileMamba; all per-stage fields have one entry per stage.

    Args:
        in_chans: Channels of the input image.
        num_classes: Outputs of the classifier; 0 leaves the classifier out.
        stem_stride: Stride of the stem in pixels; one stride-2 convolution per factor of two.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        mixer_stages: Whether the blocks of a stage hold the MRFFI token mixer; without it they are convolution and
            feed-forward only (the first stages of the paper's Figure 3 four-stage layout).
        global_shares: Share of a stage's channels that goes to WTE-Mamba (rounded to a multiple of 16).
        local_shares: Share of a stage's channels that goes to MK-DeConv.
        local_kernels: Kernel sizes (pixels, odd) of MK-DeConv in each stage; n kernels split its channels in n groups.
        wavelet_kernels: Kernel size (pixels, odd) of the convolution on the wavelet sub-bands in each stage.
        wavelet_levels: Levels of the Haar transform; 0 leaves the wavelet branch out.
        scan: Whether the global part holds the Mamba scan.
        scan_directions: 1 raster order; 2 adds its reverse; 4 adds both column orders.
        state_size: State size N of the scan.
        scan_expansion: Inner width of the scan, relative to the global channels.
        ffn_expansion: Hidden width of the feed-forward parts, relative to the stage's width.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the first.
        drop_rate: Dropout before the classifier.
        global_pool: Pooling before the classifier, one of timm's: avg, max, avgmax, catavgmax, or one of these with the
            prefix "fast"; "" returns the feature map and needs num_classes = 0.

    Raises:
        UserError: When a field is out of range or contradicts another; names field, value and remedy.
    """

    in_chans: int = 3
    num_classes: int = 1000
    stem_stride: Literal[2, 4, 8, 16] = 16
    widths: tuple[int, ...] = (192, 384, 448)
    depths: tuple[int, ...] = (1, 2, 2)
    mixer_stages: tuple[bool, ...] = (True, True, True)
    global_shares: tuple[float, ...] = (0.8, 0.7, 0.6)
    local_shares: tuple[float, ...] = (0.2, 0.2, 0.3)
    local_kernels: tuple[tuple[int, ...], ...] = ((7,), (5,), (3,))
    wavelet_kernels: tuple[int, ...] = (7, 5, 3)
    wavelet_levels: int = 1
    scan: bool = True
    scan_directions: Literal[1, 2, 4] = 2
    state_size: int = 1
    scan_expansion: float = 2.0
    ffn_expansion: float = 2.0
    drop_path_rate: float = 0.0
    drop_rate: float = 0.0
    global_pool: str = "avg"

    def __post_init__(self) -> None:
        """Turn lists (as YAML and JSON give them) into tuples and check every field."""
        for name in ("widths", "depths", "mixer_stages", "global_shares", "local_shares", "wavelet_kernels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "local_kernels", tuple(tuple(kernels) for kernels in self.local_kernels))
        self._check_scalars()
        self._check_lengths()
        for stage in range(self.num_stages):
            self._check_stage(stage)

    @property
    def num_stages(self) -> int:
        """Number of stages."""
        return len(self.widths)

    @property
    def num_stem_levels(self) -> int:
        """Number of the stem's feature maps before its last one, at strides 2, 4 and so on."""
        return self.stem_stride.bit_length() - 2

    @property
    def min_image_size(self) -> int:
        """Smallest height or width in pixels: the last stage still has one pixel."""
        return int(self.stem_stride * 2 ** (self.num_stages - 1))

    def channel_split(self, stage: int) -> ChannelSplit:
        """Channels of the global, local and identity part of MRFFI in a stage."""
        width = self.widths[stage]
        multiple = GLOBAL_CHANNEL_MULTIPLE
        global_channels = (int(self.global_shares[stage] * width) + multiple // 2) // multiple * multiple
        global_channels = min(global_channels, width // multiple * multiple)
        local_channels = min(int(self.local_shares[stage] * width), width - global_channels)
        return ChannelSplit(global_channels, local_channels, width - global_channels - local_channels)

    def _check_scalars(self) -> None:
        _check(self.in_chans >= 1, "in_chans", self.in_chans, "at least 1")
        _check(self.num_classes >= 0, "num_classes", self.num_classes, "0 (no classifier) or more")
        _check(self.stem_stride in (2, 4, 8, 16), "stem_stride", self.stem_stride, "2, 4, 8 or 16")
        _check(self.wavelet_levels >= 0, "wavelet_levels", self.wavelet_levels, "0 (off) or more")
        _check(self.scan_directions in (1, 2, 4), "scan_directions", self.scan_directions, "1, 2 or 4")
        _check(self.state_size >= 1, "state_size", self.state_size, "at least 1")
        _check(self.scan_expansion > 0, "scan_expansion", self.scan_expansion, "a positive number")
        _check(self.ffn_expansion > 0, "ffn_expansion", self.ffn_expansion, "a positive number")
        _check(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "a rate in [0, 1)")
        _check(0 <= self.drop_rate < 1, "drop_rate", self.drop_rate, "a rate in [0, 1)")
        check_pooling(self.global_pool, self.num_classes)

    def _check_lengths(self) -> None:
        _check(self.num_stages >= 1, "widths", self.widths, "one width per stage")
        per_stage: dict[str, Sequence[object]] = {
            "depths": self.depths,
            "mixer_stages": self.mixer_stages,
            "global_shares": self.global_shares,
            "local_shares": self.local_shares,
            "local_kernels": self.local_kernels,
            "wavelet_kernels": self.wavelet_kernels,
        }
        for name, values in per_stage.items():
            allowed = f"{self.num_stages} entries, one per stage: widths={self.widths} has {self.num_stages}"
            _check(len(values) == self.num_stages, name, values, allowed)

    def _check_stage(self, stage: int) -> None:
        width = self.widths[stage]
        _check(width >= 1, f"widths[{stage}]", width, "a positive number of channels")
        if stage == 0:
            divisor = self.stem_stride // 2
            allowed = f"a multiple of {divisor}: the stem doubles its width up to stride {self.stem_stride}"
            _check(width % divisor == 0, "widths[0]", width, allowed)
        _check(self.depths[stage] >= 1, f"depths[{stage}]", self.depths[stage], "at least one block")
        if self.mixer_stages[stage]:
            self._check_mixer(stage)

    def _check_mixer(self, stage: int) -> None:
        global_share, local_share = self.global_shares[stage], self.local_shares[stage]
        _check(0 <= global_share <= 1, f"global_shares[{stage}]", global_share, "a share in [0, 1]")
        _check(0 <= local_share <= 1, f"local_shares[{stage}]", local_share, "a share in [0, 1]")
        _check(
            global_share + local_share <= 1 + 1e-9,
            f"local_shares[{stage}]",
            local_share,
            f"at most {1 - global_share:.3g}, what global_shares[{stage}] = {global_share} leaves",
        )
        split = self.channel_split(stage)
        if split.global_channels:
            allowed = f"true, or wavelet_levels at least 1, or global_shares[{stage}] 0"
            _check(self.scan or self.wavelet_levels > 0, "scan", self.scan, allowed)
            kernel = self.wavelet_kernels[stage]
            _check(kernel >= 1 and kernel % 2 == 1, f"wavelet_kernels[{stage}]", kernel, "an odd kernel size")
        if split.local_channels:
            kernels = self.local_kernels[stage]
            field = f"local_kernels[{stage}]"
            _check(len(kernels) >= 1, field, kernels, "at least one kernel size")
            _check(all(k >= 1 and k % 2 == 1 for k in kernels), field, kernels, "odd kernel sizes")
            allowed = f"at most {split.local_channels} kernels: that many channels are local"
            _check(len(kernels) <= split.local_channels, field, kernels, allowed)


def check_pooling(global_pool: str, num_classes: int) -> None:
    """Refuse a pooling that timm does not have, and a classifier without pooling.

    Raises:
        UserError: For either.
    """
    known = ("", "fast", *POOLINGS, *(f"fast{name}" for name in POOLINGS))
    _check(global_pool in known, "global_pool", global_pool, f"one of {', '.join(map(repr, known))}")
    allowed = f"a pooling, since num_classes = {num_classes} is not 0"
    _check(bool(global_pool) or num_classes == 0, "global_pool", global_pool, allowed)


def _check(condition: bool, field: str, value: object, allowed: str) -> None:
    require(condition, f"MobileMambaConfig.{field}", value, allowed)
