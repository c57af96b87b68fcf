"""Bytes of a whole batch as the network takes them, on the device."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return uint8 (B, H, W, C) as float32 (B, C, H, W), by the arithmetic of torchvision: the same to the last bit.

    Args:
        images: Bytes.
        mean: Subtracted per channel, for images in [0, 1].
        std: Divided by per channel, after the mean.
    """
    floats = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return floats.div_(255).sub_(_of_channels(mean, images.device)).div_(_of_channels(std, images.device))


@cache
def _of_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value per channel, kept on the device: making it anew would wait for the device in every step."""
    return torch.tensor(values, device=device).view(-1, 1, 1)
