"""Measures the decay lengths of a network's scans on images: how far their states reach back.

From pixel to pixel a scan multiplies its state by ``exp(-step * exp(A_log))`` (see
:func:`mobilemamba.scan.reference.sequential_scan`). After ``1 / (step * exp(A_log))`` pixels of the same step size,
1 / e of the state is left: this is the decay length. It counts pixels of the block's feature map in the order of the
scan, so the map's width is one row; a pixel of the map is as many pixels of the image as the stage's stride.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilemamba.bimamba import BiMamba
from mobilemamba.scan.projected import split


@dataclass(frozen=True)
class ScanDecay:
    """Step sizes and decay lengths of one block on a batch, for every image, direction, channel and pixel.

    Args:
        step_sizes: (B, K, D, H, W).
        decay_lengths: (B, K, D, N, H, W), in pixels of the feature map.
    """

    step_sizes: Tensor
    decay_lengths: Tensor

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the feature map."""
        height, width = self.step_sizes.shape[-2:]
        return height, width


@torch.no_grad()
def scan_decays(network: Any, images: Tensor) -> dict[str, ScanDecay]:
    """Measure every block that scans, in the order of the network.

    Args:
        network: A MobileMamba in its training form and in eval mode, not compiled; it is not changed.
        images: Normalised images (B, C, H, W), on the network's device.

    Returns:
        Decays by the block's name, such as "stages.0.blocks.1"; empty for networks without a scan.
    """
    decays: dict[str, ScanDecay] = {}

    def measure(name: str, mamba: BiMamba, projection: nn.Module, inputs: tuple[Tensor], x_dbl: Tensor) -> None:
        dt, A_log, *_ = split(x_dbl, mamba.dt_proj_weight, mamba.dt_proj_bias, mamba.A_log, mamba.D)
        decays[re.sub(r"^(stages\.\d+\.blocks\.\d+)\..*", r"\1", name)] = scan_decay(dt, A_log)

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if isinstance(module, BiMamba):
                hooks.enter_context(module.x_proj.register_forward_hook(partial(measure, name, module)))
        network.forward_features(images)
    return decays


def scan_decay(dt: Tensor, A_log: Tensor) -> ScanDecay:
    """Return step sizes and decay lengths in float32, or float64 for such arguments.

    Args:
        dt: Step sizes before softplus, (B, K, D, H, W).
        A_log: Logarithm of the negative state matrix, (K, D, N).
    """
    dtype = torch.promote_types(dt.dtype, torch.float32)
    steps = F.softplus(dt.to(dtype))
    rates = torch.exp(A_log.to(dtype))[None, ..., None, None]  # (1, K, D, N, 1, 1)
    return ScanDecay(steps, 1 / (steps.unsqueeze(3) * rates))
