"""Kernels for CPUs, compiled by Numba, for what plain operators spend on passes over memory.

Maps lie channels last, (G, H, W, C) for G images, in float32: so the channels of a pixel fill vectors. Numba brings its
own compiler, and is imported when a kernel is first asked for.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

NUMBA_IS_INSTALLED = find_spec("numba") is not None


_IS_SWITCHED_OFF = ContextVar("_IS_SWITCHED_OFF", default=False)


def suit(x: Tensor) -> bool:
    """Return whether the kernels can be used for this input, here and now.

    They compute in float32 on CPUs, and are not part of exported, traced or compiled graphs, which are to run without
    this project or to be merged with what is around. They have first derivatives in reverse mode alone: others are left
    to plain operators where they can be foreseen. A Numba that does not load is warned of, once.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if not NUMBA_IS_INSTALLED or _IS_SWITCHED_OFF.get() or x.device.type != "cpu" or x.dtype == torch.float64:
        return False
    is_tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return not is_tracing and torch.autograd.forward_ad._current_level < 0 and _load_or_warn()


@contextmanager
def switched_off() -> Iterator[None]:
    """Have plain operators do what is called inside, in this thread: for second derivatives, and to compare."""
    token = _IS_SWITCHED_OFF.set(True)
    try:
        yield
    finally:
        _IS_SWITCHED_OFF.reset(token)


@functools.cache  # to warn once
def _load_or_warn() -> bool:
    try:
        import_module("mobilemamba.cpu_kernels.compilation")
    except ImportError as error:  # Numba refuses versions of NumPy that are newer than itself
        warnings.warn(f"What has Numba kernels for CPUs runs in plain operators: {error}", stacklevel=1)
        return False
    return True
