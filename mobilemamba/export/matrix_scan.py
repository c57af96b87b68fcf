"""The selective scan as products with small constant matrices: the form of exported graphs.

The same algorithm as :mod:`.parallel`, rows first, then a carry over rows, both by doubling. What differs is how values
are moved along an axis: one product with a 0/1 matrix moves both directions at once, where padding and slicing take
several nodes for each tensor and direction. The time of a graph runtime goes by nodes at this size: S6 takes a third
less in ONNX Runtime in this form. Eager PyTorch and its backward pass prefer the other. Products are ``torch.bmm``:
``@`` is traced with an expansion of each factor, which some runtimes execute as a copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mobilemamba.scan.parallel import doublings


def matrix_scan(u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan a feature map in K directions; arguments and result as in :func:`.reference.sequential_scan`.

    The state is held in float32 (float64 for float64 input), whatever the dtype of the arguments, but not under
    autocast, which exported graphs do not have.
    """
    if dt.shape[1] > 2:  # the other two directions are the same over the transposed map
        raster = matrix_scan(u, dt[:, :2], A_log[:2], B[:, :2], C[:, :2], D[:2])
        columns = matrix_scan(u.mT, dt[:, 2:].mT, A_log[2:], B[:, 2:].mT, C[:, 2:].mT, D[2:])
        return raster + columns.mT
    dtype = torch.promote_types(u.dtype, torch.float32)
    # Directions come first from here on, so that each meets its own matrix.
    delta = _softplus(dt.to(dtype).transpose(0, 1))  # (K, B, D, H, W)
    B, C = B.to(dtype).transpose(0, 1), C.to(dtype).transpose(0, 1)  # (K, B, N, H, W)
    negative_A = -torch.exp(A_log.to(dtype)).unsqueeze(1)  # (K, 1, D, N)
    u = u.to(dtype)
    delta_u = delta * u  # (K, B, D, H, W)
    y = D.to(dtype).sum(0).view(-1, 1, 1) * u
    for n in range(A_log.shape[-1]):
        log_A_bar = delta * negative_A[..., n, None, None]
        state = _scan_raster(log_A_bar, delta_u * B[:, :, n, None])
        y = y + (C[:, :, n, None] * state).sum(0)
    return y


def _softplus(x: Tensor) -> Tensor:
    # The library operator is exported with a threshold branch and then takes longer than all the rest of the scan.
    return torch.relu(x) + torch.log(1 + torch.exp(-x.abs()))


def _scan_raster(log_A_bar: Tensor, delta_B_u: Tensor) -> Tensor:
    """States h_t = exp(log_A_bar_t) h_{t-1} + delta_B_u_t over (K, B, D, H, W), in raster order and its reverse."""
    directions, _, _, height, width = delta_B_u.shape
    offsets = _offsets(width, directions, delta_B_u)
    log_A_bar = log_A_bar.flatten(1, 3)  # (K, B * D * H, W)
    state = _scan(torch.exp(log_A_bar), delta_B_u.flatten(1, 3), offsets)
    product = torch.exp(torch.bmm(log_A_bar, (offsets >= 0).to(delta_B_u.dtype)))  # from the start of the row
    last = _last(width, directions, delta_B_u)
    row_offsets = _offsets(height, directions, delta_B_u)
    row_state = _scan(
        torch.bmm(product, last).view(directions, -1, height),
        torch.bmm(state, last).view(directions, -1, height),
        row_offsets,
    )
    carried = torch.bmm(row_state, (row_offsets == 1).to(delta_B_u.dtype))  # what the rows before hand to each row
    return torch.addcmul(state, product, carried.view(directions, -1, 1)).view(delta_B_u.shape)


def _scan(A_bar: Tensor, delta_B_u: Tensor, offsets: Tensor) -> Tensor:
    """Inclusive scan of (K, M, T) along its last axis by doubling."""
    steps = doublings(delta_B_u.shape[-1])
    for step in range(steps):
        shift = (offsets == 2**step).to(delta_B_u.dtype)
        delta_B_u = torch.addcmul(delta_B_u, A_bar, torch.bmm(delta_B_u, shift))
        if step + 1 < steps:
            # 0 where nothing is that far back: nothing is there to A_bar either.
            A_bar = A_bar * torch.bmm(A_bar, shift)
    return delta_B_u


def _offsets(length: int, directions: int, like: Tensor) -> Tensor:
    """How far each target (last axis) lies behind each source in scan order, (K, length, length)."""
    position = torch.arange(length, device=like.device)
    offset = position - position.unsqueeze(1)
    return torch.stack([offset, -offset][:directions])


def _last(length: int, directions: int, like: Tensor) -> Tensor:
    """Column vectors that pick the last position of each direction, (K, length, 1)."""
    position = torch.arange(length, device=like.device)
    picks = torch.stack([position == length - 1, position == 0][:directions])
    return picks.unsqueeze(-1).to(like.dtype)
