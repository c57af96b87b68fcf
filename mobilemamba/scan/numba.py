"""The selective scan as Numba kernels: the form of CPUs, where Numba is installed.

It reads every argument once and keeps states in the cache, where plain operators pass over the map a dozen times. The
backward pass computes the states again and saves none. Both passes are operators of ``torch.library``, so that shapes
can be propagated and operations counted. No compiler is needed: Numba brings its own. Second derivatives are left to
the other forms.

Importing this module imports Numba: :func:`mobilemamba.scan.selective_scan` does so when it needs it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mobilemamba.scan import numba_kernels
from mobilemamba.scan.flops import scan_backward_flops, scan_flops

CHANNELS = 128
"""Channels of a task, at most: the states of some hundred pixels then stay in the cache."""

VECTOR = 16
"""Channels of a task are a multiple of this many float32: the longest vectors there are."""

SMALLEST_SHARE = 2**15
"""Values of the step logits that another thread is worth."""


def numba_scan(
    u: Tensor,
    step_logits: Tensor,
    A_log: Tensor,
    B: Tensor,
    C: Tensor,
    D_skip: Tensor,
) -> Tensor:
    """Scan a feature map in K directions; arguments as in :func:`.reference.sequential_scan`, result in float32.

    The state is held in float32 whatever the dtype of the arguments and under autocast. Arguments whose channels come
    last in memory are taken as they are, others are copied.

    Raises:
        ValueError: When the input is not on a CPU, or in float64.
    """
    if u.device.type != "cpu":
        raise ValueError(f"Scan backend 'numba' runs on CPUs, u is on {u.device}: move it there, or take 'auto'.")
    if u.dtype == torch.float64:
        raise ValueError("Scan backend 'numba' holds its state in float32: for float64 take backend 'rows'.")
    y = channels_last_scan(
        u.permute(0, 2, 3, 1), step_logits.permute(1, 0, 3, 4, 2), A_log, B.flatten(-2), C.flatten(-2), D_skip
    )
    return y.permute(0, 3, 1, 2)


def channels_last_scan(u: Tensor, step_logits: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D_skip: Tensor) -> Tensor:
    """The same, channels last.

    Args:
        u: (G, H, W, D), for G images.
        step_logits: (K, G, H, W, D).
        A_log: (K, D, N).
        B: (G, K, N, H * W).
        C: (G, K, N, H * W).
        D_skip: (K, D).

    Returns:
        (G, H, W, D) in float32.
    """
    if len(step_logits) > 2:  # the other two directions are the same over the transposed map
        height, width = u.shape[1:3]
        turned_B, turned_C = (x.unflatten(-1, (height, width)).mT.flatten(-2)[:, 2:] for x in (B, C))
        raster = channels_last_scan(u, step_logits[:2], A_log[:2], B[:, :2], C[:, :2], D_skip[:2])
        columns = channels_last_scan(
            u.transpose(1, 2), step_logits[2:].transpose(2, 3), A_log[2:], turned_B, turned_C, D_skip[2:]
        )
        return raster + columns.transpose(1, 2)
    arguments = (u.flatten(1, 2), step_logits.flatten(2, 3), A_log, B, C, D_skip)
    y: Tensor = scan_rows(*(x.float() for x in arguments))
    return y.view(u.shape)


@torch.library.custom_op("mobilemamba::selective_scan_cpu", mutates_args=(), device_types="cpu")
def scan_rows(u: Tensor, step_logits: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D_skip: Tensor) -> Tensor:
    """Scan sequences of L pixels forwards and, where K is 2, backwards; all in float32.

    Args:
        u: (G, L, D).
        step_logits: (K, G, L, D).
        A_log: (K, D, N).
        B: (G, K, N, L).
        C: (G, K, N, L).
        D_skip: (K, D).

    Returns:
        (G, L, D).
    """
    y = u.new_empty(u.shape)
    _run(numba_kernels.forward_tasks, _inputs(u, step_logits, A_log, B, C, D_skip), [y], step_logits.shape)
    return y


@scan_rows.register_fake
def _forward_result(u: Tensor, *others: Tensor) -> Tensor:
    return u.new_empty(u.shape)


@torch.library.custom_op("mobilemamba::selective_scan_cpu_backward", mutates_args=(), device_types="cpu")
def scan_rows_backward(
    dy: Tensor, u: Tensor, step_logits: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D_skip: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of the six arguments of :func:`scan_rows`, in float32.

    Sums over images and channels are formed from parts in a fixed order: results do not vary between runs with as many
    threads.

    Args:
        dy: Gradient of y, (G, L, D).
        u: As there, like the next five.
        step_logits: See there.
        A_log: See there.
        B: See there.
        C: See there.
        D_skip: See there.
    """
    directions, images, _, channels = step_logits.shape
    states = A_log.shape[-1]
    ranges = -(-channels // _task_width(channels, images))
    du, dlogits = u.new_empty(u.shape), u.new_empty(step_logits.shape)
    dA_log = u.new_empty(images, directions, states, channels)
    dB, dC = u.new_empty(2, ranges, *B.shape).unbind()
    dskip = u.new_empty(images, channels)
    inputs = [dy.contiguous(), *_inputs(u, step_logits, A_log, B, C, D_skip)]
    _run(numba_kernels.backward_tasks, inputs, [du, dlogits, dA_log, dB, dC, dskip], step_logits.shape)
    return du, dlogits, dA_log.sum(0).mT.contiguous(), dB.sum(0), dC.sum(0), dskip.sum(0).repeat(directions, 1)


@scan_rows_backward.register_fake
def _gradients(dy: Tensor, *arguments: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in arguments)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    return scan_rows_backward(dy, *ctx.saved_tensors)


scan_rows.register_autograd(_backward, setup_context=_save)


register_flop_formula(torch.ops.mobilemamba.selective_scan_cpu)(scan_flops)
register_flop_formula(torch.ops.mobilemamba.selective_scan_cpu_backward)(scan_backward_flops)


def _inputs(u: Tensor, step_logits: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D_skip: Tensor) -> list[Tensor]:
    rate = torch.exp(A_log).mT  # (K, N, D)
    return [x.contiguous() for x in (u, step_logits, rate, B, C, D_skip.sum(0))]


def _run(kernel: Callable[..., None], inputs: list[Tensor], outputs: list[Tensor], shape: Sequence[int]) -> None:
    """Give each thread a share of the tasks."""
    directions, images, length, channels = shape
    if 0 in shape:
        for output in outputs:
            output.zero_()
        return
    width = _task_width(channels, images)
    tasks = images * -(-channels // width)
    arrays: list[NDArray[Any]] = [x.detach().numpy() for x in (*inputs, *outputs)]
    threads = min(torch.get_num_threads(), tasks, max(1, images * directions * length * channels // SMALLEST_SHARE))
    bounds = [tasks * number // threads for number in range(threads + 1)]
    others = [_pool(os.getpid()).submit(kernel, *arrays, width, *bounds[i : i + 2]) for i in range(1, threads)]
    kernel(*arrays, width, 0, bounds[1])
    for other in others:
        other.result()


def _task_width(channels: int, images: int) -> int:
    """Return the channels of a task: where images cannot be shared out evenly, their channels are."""
    share = torch.get_num_threads() if images % torch.get_num_threads() else 1
    ranges = share * -(-channels // (share * CHANNELS))
    return max(1, -(-channels // max(1, ranges * VECTOR))) * VECTOR


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process: a forked one does not inherit them."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="selective_scan")
