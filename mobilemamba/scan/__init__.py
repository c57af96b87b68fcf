"""Selective scans of feature maps, and the choice between their forms.

Every form takes the same arguments (see :func:`.reference.sequential_scan`) and gives the same numbers.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mobilemamba.scan.matrix import matrix_scan
from mobilemamba.scan.parallel import parallel_scan
from mobilemamba.scan.reference import sequential_scan

ScanBackend = Literal["auto", "matrix", "parallel", "sequential"]

__all__ = ["ScanBackend", "matrix_scan", "parallel_scan", "selective_scan", "sequential_scan"]


def selective_scan(
    u: Tensor,
    step_logits: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    D_skip: Tensor,
    backend: ScanBackend = "auto",
) -> Tensor:
    """Scan a feature map in K directions and add the results.

    Args:
        u: Input, (B, D, H, W).
        step_logits: Step sizes before softplus, (B, K, D, H, W).
        A_log: Logarithm of the negative state matrix, (K, D, N).
        B: Input projection, (B, K, N, H, W).
        C: Output projection, (B, K, N, H, W).
        D_skip: Skip weight, (K, D).
        backend: "auto" picks the fastest form: "matrix" in exported graphs, "parallel" elsewhere.

    Returns:
        (B, D, H, W) in float32, or float64 for float64 input.
    """
    if backend == "auto":
        backend = "matrix" if torch.compiler.is_exporting() else "parallel"
    match backend:
        case "matrix":
            return matrix_scan(u, step_logits, A_log, B, C, D_skip)
        case "parallel":
            return parallel_scan(u, step_logits, A_log, B, C, D_skip)
        case "sequential":
            return sequential_scan(u, step_logits, A_log, B, C, D_skip)
