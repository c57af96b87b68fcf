"""How Numba compiles the kernels: when they are first called, in seconds, with the result kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _compiled(**options: Any) -> _Decorator:
    """Return a decorator that has Numba compile a function, and keep the result on disk where that is possible."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
        except RuntimeError:  # no folder can be written
            return numba.njit(nogil=True, error_model="numpy", **options)(function)

    return decorate


# Contraction to fused multiply-adds is all that rounding allows: sums in another order would undo the reduction of
# exponents.
in_order = _compiled(fastmath={"contract", "nsz"})
reordered = _compiled(fastmath={"contract", "nsz", "reassoc"})
inlined = numba.njit(inline="always")
