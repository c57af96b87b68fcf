"""The selective scan in plain, parallel tensor operators: trains on any device, compiles and exports.

A scan in raster order over H rows of W pixels is split in two: all rows are scanned at once as if each began with an
empty state, then the state at the end of each row is carried to the next. Both are inclusive scans by doubling
(Hillis and Steele, 1986), about log2(W) + log2(H) steps instead of H * W. Products of decays are formed directly, never
as a quotient of cumulative products, so nothing overflows however long the sequence. The backward direction shifts
the other way; no flipped copy is made.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mobilemamba.scan.directions import scan_directions

DYNAMIC_SIZE_DOUBLINGS = 8
"""Doublings in a graph of dynamic size: enough for rows and columns of 256 states (4096 pixels at stride 16)."""


def _scan_map(A_bar: Tensor, delta_B_u: Tensor, direction: int) -> Tensor:
    """States h_t = A_bar_t h_{t-1} + delta_B_u_t over (..., H, W) in the given direction."""
    if direction >= 2:  # column-major: the same over the transposed map
        return _scan_map(A_bar.mT, delta_B_u.mT, direction - 2).mT
    reverse = direction == 1
    state, product = _scan_last_axis(A_bar, delta_B_u, reverse)
    end = 0 if reverse else -1
    row_state, _ = _scan_last_axis(product[..., end], state[..., end], reverse)
    carried = _shift(row_state, 1, 0.0, reverse)  # what the rows before hand to each row
    return torch.addcmul(state, product, carried.unsqueeze(-1))


parallel_scan = partial(scan_directions, recurrence=_scan_map)
"""Scans a feature map in K directions, see :func:`.directions.scan_directions`."""


def _scan_last_axis(A_bar: Tensor, delta_B_u: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    """Inclusive scan; returns the states and the products of all decays up to each position."""
    for doubling in range(doublings(A_bar.shape[-1])):
        distance = 2**doubling
        delta_B_u = torch.addcmul(delta_B_u, A_bar, _shift(delta_B_u, distance, 0.0, reverse))
        A_bar = A_bar * _shift(A_bar, distance, 1.0, reverse)
    return delta_B_u, A_bar


def doublings(length: int | torch.SymInt) -> int:
    """Return how often a reach of one must double to cover the length."""
    if isinstance(length, torch.SymInt):
        return DYNAMIC_SIZE_DOUBLINGS
    return (int(length) - 1).bit_length()  # a traced length is a tensor


def _shift(x: Tensor, distance: int, fill: float, reverse: bool) -> Tensor:
    """Move x along its last axis by distance, away from the start of the scan; valid for any distance."""
    length = x.shape[-1]
    if reverse:
        return F.pad(x, (0, distance), value=fill)[..., distance:]
    return F.pad(x, (distance, 0), value=fill)[..., :length]
