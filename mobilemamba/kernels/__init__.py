"""Kernels for CPUs, compiled by Numba, for what plain operators spend on passes over memory.

Maps lie channels last, (G, H, W, C) for G images, in float32: so the channels of a pixel fill vectors. Numba brings its
own compiler, and is imported when a kernel is first asked for; a ``FlopCounterMode`` that was made before does not know
the kernels' operations.
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
from torch import Tensor, nn

NUMBA_IS_INSTALLED = find_spec("numba") is not None


_IS_SWITCHED_OFF = ContextVar("_IS_SWITCHED_OFF", default=False)


def suit(x: Tensor) -> bool:
    """Return whether the kernels can be used for this input, here and now.

    They compute in float32 on CPUs, and are in no graph of torch.export, torch.jit.trace and torch.compile: these are
    to run without this project, or to be merged with what is around. They have first derivatives in reverse mode
    alone: forward mode and the transforms of torch.func are left to plain operators, second derivatives need
    :func:`switched_off`. A Numba that does not load is warned of, once.
    """
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    if not NUMBA_IS_INSTALLED or _IS_SWITCHED_OFF.get() or x.device.type != "cpu" or x.dtype == torch.float64:
        return False
    is_tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    is_transformed = torch._C._functorch.peek_interpreter_stack() is not None
    is_forward_mode = torch.autograd.forward_ad._current_level >= 0
    return not (is_tracing or is_transformed or is_forward_mode) and _load_or_warn()


def untouched(*modules: tuple[nn.Module, type[nn.Module]]) -> bool:
    """Return whether modules are of the types they were made with, and nobody has hooked them.

    Kernels take their weights and never call them: what was put in their place, or listens to them, would be passed by.
    """
    return all(
        type(module) is kind
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        for module, kind in modules
    )


@contextmanager
def switched_off() -> Iterator[None]:
    """Have plain operators do what is called inside, in this thread: for second derivatives, and to compare.

    Where checkpoints compute a forward pass again, the backward pass belongs inside, too.
    """
    token = _IS_SWITCHED_OFF.set(True)
    try:
        yield
    finally:
        _IS_SWITCHED_OFF.reset(token)


@functools.cache  # to warn once
def _load_or_warn() -> bool:
    try:
        import_module("mobilemamba.kernels.compilation")
    except Exception as error:  # Numba refuses newer versions of NumPy; LLVM's library may be missing; and so on
        warnings.warn(f"What has Numba kernels for CPUs runs in plain operators: {error!r}", stacklevel=1)
        return False
    return True
