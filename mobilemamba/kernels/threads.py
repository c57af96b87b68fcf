"""Work shared between the threads that PyTorch computes with.

PyTorch's OpenMP threads keep their processors busy for a while after each operator, waiting for the next. Threads
beside them would compete with that, so kernels are run by the same ones.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

SMALLEST_SHARE = 2**17
"""Values that another thread is worth."""

PARTS = 32
"""Parts that a gradient is summed in, at most: so many that threads find work, and results do not vary with theirs."""

CHANNELS = 128
"""Channels of a task, at least, where images are fewer than threads."""


def parts_of(items: int) -> int:
    """Return in how many parts a sum over images or pixels is formed, each by one thread."""
    return max(1, min(items, PARTS))


def tasks_of(images: int, channels: int, values: int) -> tuple[int, int]:
    """Return the number of tasks, and the channels of each, where every channel of every image is on its own.

    Args:
        images: How many there are.
        channels: Of each.
        values: See :func:`run`.
    """
    ranges = max(1, min(channels // CHANNELS, -(-_useful_threads(values) // max(1, images))))
    return images * ranges, -(-channels // ranges)


def run(kernel: Callable[..., None], arguments: Sequence[Any], tasks: int, values: int) -> None:
    """Call a compiled kernel from as many threads as are worth it.

    Where PyTorch's threads cannot be had, as on Windows, the calling thread does all; that is warned of, once.

    Args:
        kernel: Takes the arguments, the first task and the one to end before; it must release the interpreter's lock.
        arguments: Its other arguments.
        tasks: How many tasks there are.
        values: How many values are computed, for which see :data:`SMALLEST_SHARE`.
    """
    threads = min(tasks, _useful_threads(values))
    openmp = _openmp() if threads > 1 else None
    if openmp is None:
        kernel(*arguments, 0, tasks)
        return
    kernel(*arguments, 0, 0)  # no task: this compiles it, if it has not been yet, before several threads ask
    done: list[int] = []
    failures: list[BaseException] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def share(_: None) -> None:
        try:
            number, count = openmp.omp_get_thread_num(), openmp.omp_get_num_threads()
            first, last = tasks * number // count, tasks * (number + 1) // count
            kernel(*arguments, first, last)
            done.append(last - first)
        except BaseException as error:  # an exception cannot leave a C function
            failures.append(error)

    openmp.GOMP_parallel(share, None, threads, 0)
    if failures:
        raise failures[0]
    if sum(done) != tasks:  # Ctrl-C hit a thread where it could not be caught
        raise KeyboardInterrupt


def _useful_threads(values: int) -> int:
    return min(torch.get_num_threads(), values // SMALLEST_SHARE)


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """Return the OpenMP library that PyTorch has loaded for all, if it has GNU's interface."""
    try:
        library = ctypes.CDLL(None)
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        library.GOMP_parallel.restype = None
        return library if library.omp_get_thread_num and library.omp_get_num_threads else None
    except (AttributeError, OSError, TypeError) as error:  # TypeError: Windows has no library of everything
        warnings.warn(f"Numba kernels run in one thread: PyTorch's OpenMP cannot be called ({error}).", stacklevel=1)
        return None
