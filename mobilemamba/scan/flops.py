"""Operations of the scan's kernels, for PyTorch's counter: whatever the order of the axes of their arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FLOPS_PER_STATE = 9
"""Operations for each pixel, direction, channel and state: the count of Mamba and of the paper."""


def scan_flops(
    u_shape: Sequence[int], logits_shape: Sequence[int], A_shape: Sequence[int], *others: Any, **_: Any
) -> int:
    """Return the operations of the forward pass."""
    directions, _channels, state_size = A_shape
    return FLOPS_PER_STATE * math.prod(u_shape) * directions * state_size


def scan_backward_flops(dy_shape: Sequence[int], u_shape: Sequence[int], *shapes: Any, **_: Any) -> int:
    """Return the count of the forward pass, which is repeated, and twice as much for the gradients."""
    return 3 * scan_flops(u_shape, *shapes)
