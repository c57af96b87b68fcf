"""Normalises a batch of bytes on the device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return uint8 (B, H, W, C) as normalised float32 (B, C, H, W), bit by bit the same as torchvision's."""
    floats = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return floats.div_(255).sub_(_per_channel(mean, images.device)).div_(_per_channel(std, images.device))


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value per channel, cached on the device: a copy in every step would wait for the device."""
    return torch.tensor(values, device=device).view(-1, 1, 1)
