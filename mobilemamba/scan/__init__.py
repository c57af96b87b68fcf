"""Selective scans of feature maps, and the choice between their forms.

Every form takes the same arguments (see :func:`.reference.sequential_scan`) and gives the same numbers, in float32 or
float64; the sequential form alone computes in the dtype of its arguments.
"""

from __future__ import annotations

import functools
import warnings
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from mobilemamba.scan.matrix import matrix_scan
from mobilemamba.scan.parallel import parallel_scan
from mobilemamba.scan.reference import sequential_scan
from mobilemamba.scan.rows import rows_scan

ScanBackend = Literal["auto", "matrix", "parallel", "rows", "sequential", "triton"]

TRITON_IS_INSTALLED = find_spec("triton") is not None

__all__ = ["ScanBackend", "matrix_scan", "parallel_scan", "rows_scan", "selective_scan", "sequential_scan"]


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    backend: ScanBackend = "auto",
) -> Tensor:
    """Scan a feature map in K directions and add the results.

    Args:
        u: Input, (B, D, H, W).
        dt: Step sizes before softplus, (B, K, D, H, W).
        A_log: Logarithm of the negative state matrix, (K, D, N).
        B: Input projection, (B, K, N, H, W).
        C: Output projection, (B, K, N, H, W).
        D: Skip weight, (K, D).
        backend: "auto" picks by place: "matrix" in exported graphs, "triton" on CUDA devices where Triton is installed
            (but "parallel" for float64 and for forward-mode derivatives), "rows" on CPUs outside of torch.compile,
            "parallel" elsewhere. "triton" has no second derivatives. Blocks have kernels of their own on CPUs
            (:mod:`mobilemamba.kernels`).

    Returns:
        (B, D, H, W) in float32, or float64 for float64 input. "sequential" alone gives, and computes in, the dtype that
        the arguments promote to: bfloat16 for arguments in bfloat16.

    Raises:
        ModuleNotFoundError: When backend is "triton" and Triton is not installed.
        ValueError: When backend is unknown, or "triton" and the input is in float64 or not on a CUDA device.
    """
    if backend == "auto":
        backend = fastest_backend(u)
    match backend:
        case "matrix":
            return matrix_scan(u, dt, A_log, B, C, D)
        case "parallel":
            return parallel_scan(u, dt, A_log, B, C, D)
        case "rows":
            return rows_scan(u, dt, A_log, B, C, D)
        case "sequential":
            return sequential_scan(u, dt, A_log, B, C, D)
        case "triton":
            if not TRITON_IS_INSTALLED:
                raise ModuleNotFoundError("Scan backend 'triton' needs Triton: install it, or take backend 'parallel'.")
            from mobilemamba.scan.triton import triton_scan  # imports Triton: only those who scan by it need it

            return triton_scan(u, dt, A_log, B, C, D)
        case _:
            raise ValueError(f"Scan backend {backend!r} is unknown: use one of {', '.join(get_args(ScanBackend))}.")


def fastest_backend(u: Tensor) -> Literal["matrix", "parallel", "rows", "triton"]:
    """Return the form that "auto" stands for, by the device and dtype of the input and whether a graph is exported."""
    if torch.compiler.is_exporting():
        return "matrix"
    # Kernels have no forward-mode derivatives; torch.compile has none either.
    is_forward_mode = not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0
    if u.is_cuda and u.dtype != torch.float64 and not is_forward_mode and _triton_runs_on(u.device):
        return "triton"
    # Compiled, many short steps make a large graph, and the compiler merges what is around plain operators with them.
    if u.device.type == "cpu" and not torch.compiler.is_compiling():
        return "rows"
    return "parallel"


@torch.compiler.assume_constant_result  # torch.compile cannot trace a warning
def _triton_runs_on(device: torch.device) -> bool:
    return _triton_runs_or_warns(device)


@functools.cache  # to warn once
def _triton_runs_or_warns(device: torch.device) -> bool:
    if not TRITON_IS_INSTALLED:
        lack = "Triton is not installed"
    elif torch.cuda.get_device_capability(device) < (7, 0):
        lack = "Triton needs compute capability 7.0"
    else:
        return True
    warnings.warn(f"Selective scans on {device} run in plain operators, not as CUDA kernels: {lack}.", stacklevel=1)
    return False
