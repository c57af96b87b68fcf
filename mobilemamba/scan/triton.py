"""The selective scan as one Triton kernel for each pass: the form of CUDA devices.

It reads every argument once and keeps states in registers, where the other forms write each doubling to memory. Both
passes are operators of ``torch.library``: ``torch.compile`` keeps them whole, without a break of the graph. Nothing is
built at installation; Triton, which comes with PyTorch's CUDA builds, compiles the kernels when a map of new shape is
first met. Derivatives other than first ones are those of the parallel form.

Importing this module imports Triton: :func:`mobilemamba.dispatch.selective_scan` does so when it needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mobilemamba.derivatives import CompiledKernel
from mobilemamba.errors import UserError
from mobilemamba.scan import triton_kernels
from mobilemamba.scan.parallel import parallel_scan
from mobilemamba.scan.reference import FLOPS_PER_STATE

CHUNK = 1024
"""Pixels that are scanned at once; longer maps take several chunks and a launch for each direction."""

TILE = 1024
"""Pixels times channels of a program, but for the longest maps, which still get two channels."""

VALUES_PER_THREAD = 4
"""Of each tensor: with 4, programs of the backward pass take few enough registers to share a multiprocessor."""

INTERPRETED = triton.knobs.runtime.interpret
"""Whether kernels run in Triton's interpreter, on any device: TRITON_INTERPRET=1 when they were defined."""


def triton_scan(u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan a feature map in K directions; arguments as in :func:`.reference.sequential_scan`, result in float32.

    The state is held in float32 whatever the dtype of the arguments and under autocast. Arguments of any memory layout
    are taken; those that are not contiguous over pixels are copied.

    Raises:
        UserError: When the input is not on a CUDA device (and kernels are not interpreted), or in float64.
    """
    if not (u.is_cuda or INTERPRETED):
        raise UserError(
            f"Scan form 'triton' needs a CUDA device, u is on {u.device}: move it there, or take form 'parallel'."
        )
    if u.dtype == torch.float64:
        raise UserError("Scan form 'triton' holds its state in float32: for float64 take form 'parallel'.")
    if dt.shape[1] > 2:  # the other two directions are the same over the transposed map
        raster = triton_scan(u, dt[:, :2], A_log[:2], B[:, :2], C[:, :2], D[:2])
        columns = triton_scan(u.mT, dt[:, 2:].mT, A_log[2:], B[:, 2:].mT, C[:, 2:].mT, D[2:])
        return raster + columns.mT
    arguments = (u.flatten(-2), dt.flatten(-2), A_log, B.flatten(-2), C.flatten(-2), D)
    return _SCAN(*arguments).view(u.shape)


def plain_sequences(u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The function of :func:`scan_sequences` in plain operators."""
    u, dt, B, C = (x.unsqueeze(-2) for x in (u, dt, B, C))
    y = parallel_scan(u, dt, A_log, B, C, D)
    return y.squeeze(-2)


@torch.library.custom_op("mobilemamba::selective_scan", mutates_args=())
def scan_sequences(u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    """Scan sequences of L pixels forwards and, where K is 2, backwards.

    Args:
        u: Input, (B, D, L).
        dt: Step sizes before softplus, (B, K, D, L).
        A_log: Logarithm of the negative state matrix, (K, D, N).
        B: Input projection, (B, K, N, L).
        C: Output projection, (B, K, N, L).
        D: Skip weight, (K, D).

    Returns:
        y, (B, D, L), and the states that chunks hand to the next, (B, K, chunks - 1, D, N), both float32.
    """
    inputs = [x.contiguous() for x in (u, dt, A_log, B, C, D)]
    y, handed = _forward_results(u, dt, A_log, B, C, D)
    _launch(triton_kernels.forward_kernel, [*inputs, y, handed], u, A_log)
    return y, handed


@scan_sequences.register_fake
def _forward_results(u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
    directions, channels, state_size = A_log.shape
    batch, _, length = u.shape
    handed = u.new_empty(batch, directions, _chunks(length) - 1, channels, state_size, dtype=torch.float32)
    return u.new_empty(u.shape, dtype=torch.float32), handed


@torch.library.custom_op("mobilemamba::selective_scan_backward", mutates_args=())
def scan_sequences_backward(
    dy: Tensor, u: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, handed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the six arguments of :func:`scan_sequences`, each in its argument's dtype.

    Sums over images, chunks and channels are formed from parts in a fixed order: results do not vary between runs.

    Args:
        dy: Gradient of y, (B, D, L).
        u: (B, D, L).
        dt: (B, K, D, L).
        A_log: (K, D, N).
        B: (B, K, N, L).
        C: (B, K, N, L).
        D: (K, D).
        handed: States that chunks hand to the next, (B, K, chunks - 1, D, N).
    """
    inputs = [x.contiguous() for x in (dy.float(), u, dt, A_log, B, C, D, handed)]
    batch, channels, length = u.shape
    chunks = _chunks(length)
    blocks = triton.cdiv(channels, _block(channels, length)[0])
    # Where each direction is a launch, the second adds to the first one's: not to be rounded in between.
    du = u.new_empty(u.shape, dtype=u.dtype if chunks == 1 else torch.float32)
    dlogits = dt.new_empty(dt.shape)
    dA_log = u.new_empty(batch, chunks, *A_log.shape, dtype=torch.float32)
    dB = u.new_empty(blocks, *B.shape, dtype=torch.float32)
    dC = torch.empty_like(dB)
    dD_skip = u.new_empty(batch, chunks, *D.shape, dtype=torch.float32)
    outputs = [du, dlogits, dA_log, dB, dC, dD_skip]
    _launch(triton_kernels.backward_kernel, [*inputs, *outputs, batch], u, A_log)
    return (
        du.to(u.dtype),
        dlogits,
        dA_log.sum((0, 1)).to(A_log.dtype),
        dB.sum(0).to(B.dtype),
        dC.sum(0).to(C.dtype),
        dD_skip.sum((0, 1)).to(D.dtype),
    )


@scan_sequences_backward.register_fake
def _gradients(dy: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments[:6])


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return scan_sequences_backward(dy, *ctx.saved_tensors)


scan_sequences.register_autograd(_backward, setup_context=_save)
_SCAN = CompiledKernel(scan_sequences, scan_sequences_backward, plain_sequences, kept=1)


@register_flop_formula(torch.ops.mobilemamba.selective_scan)
def _flops(u_shape: Sequence[int], dt_shape: Sequence[int], A_shape: Sequence[int], *others: Any, **_: Any) -> int:
    directions, _channels, state_size = A_shape
    return FLOPS_PER_STATE * math.prod(u_shape) * directions * state_size


@register_flop_formula(torch.ops.mobilemamba.selective_scan_backward)
def _backward_flops(dy_shape: Sequence[int], *shapes: Any, **_: Any) -> int:
    return 3 * _flops(*shapes)  # the forward pass is repeated; gradients take twice as much


def launches(channels: int, length: int, state_size: int, directions: int) -> list[dict[str, int]]:
    """Return the constants of each launch of a kernel."""
    chunks = _chunks(length)
    block_d, block_l = _block(channels, length)
    constants = {
        "CHANNELS": channels,
        "LENGTH": length,
        "STATE_SIZE": state_size,
        "DIRECTIONS": directions,
        "CHUNKS": chunks,
        "BLOCK_D": block_d,
        "BLOCK_L": block_l,
        "BLOCK_N": triton.next_power_of_2(state_size),
        "num_warps": max(1, block_d * block_l // (32 * VALUES_PER_THREAD)),
    }
    spans = [(0, directions)] if chunks == 1 else [(k, k + 1) for k in range(directions)]
    return [constants | {"FIRST": first, "LAST": last} for first, last in spans]


def _launch(kernel: Any, arguments: list[Any], u: Tensor, A_log: Tensor) -> None:
    directions, channels, state_size = A_log.shape
    batch, _, length = u.shape
    if u.numel() == 0:
        return
    grid = (batch * triton.cdiv(channels, _block(channels, length)[0]),)
    with torch.cuda.device_of(u):
        for constants in launches(channels, length, state_size, directions):
            kernel[grid](*arguments, **constants)


def _chunks(length: int) -> int:
    return (length + CHUNK - 1) // CHUNK


def _block(channels: int, length: int) -> tuple[int, int]:
    """Return channels and pixels of a program's tile, powers of two."""
    pixels = min(max(triton.next_power_of_2(length), 16), CHUNK)
    return max(min(triton.next_power_of_2(channels), TILE // pixels), 2), pixels
