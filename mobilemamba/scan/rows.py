"""The selective scan as short loops over columns and rows: for inference on CPUs and in exported graphs.

All rows of a channels-last map are scanned at once, column by column, as if each began with an empty state; then the
state at the end of each row is carried to the next: W + H steps instead of H * W, each over contiguous slices. Where
:mod:`.parallel` doubles its reach with passes over the whole map, every value is touched once here; at the few hundred
pixels of a feature map that decides the time. Autograd would keep every slice, so training prefers the other form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def row_scan(decay: Tensor, drive: Tensor, reverse: bool = False) -> Tensor:
    """States h_t = decay_t h_{t-1} + drive_t of a map in raster order, or against it; H and W must be known numbers.

    Args:
        decay: (B, H, W, D).
        drive: (B, H, W, D).
        reverse: From the last pixel to the first.

    Returns:
        (B, H, W, D).
    """
    height, width = drive.shape[1:3]
    decays, drives = _in_order(decay.split(1, dim=2), reverse), _in_order(drive.split(1, dim=2), reverse)
    products, states = [decays[0]], [drives[0]]  # (B, H, 1, D) per column
    for column in range(1, width):
        products.append(products[-1] * decays[column])
        states.append(torch.addcmul(drives[column], decays[column], states[-1]))
    state = torch.cat(_in_order(states, reverse), dim=2)
    if height == 1:
        return state
    row_products = _in_order(products[-1].split(1, dim=1), reverse)  # (B, 1, 1, D) per row
    row_states = _in_order(states[-1].split(1, dim=1), reverse)
    carried = [torch.zeros_like(row_states[0]), row_states[0]]  # what the rows before hand to each row
    for row in range(1, height - 1):
        carried.append(torch.addcmul(row_states[row], row_products[row], carried[-1]))
    product = torch.cat(_in_order(products, reverse), dim=2)
    return torch.addcmul(state, product, torch.cat(_in_order(carried, reverse), dim=1))


def _in_order(slices: Sequence[Tensor], reverse: bool) -> list[Tensor]:
    return list(reversed(slices)) if reverse else list(slices)
