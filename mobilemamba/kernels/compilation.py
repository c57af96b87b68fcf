"""How Numba compiles the kernels: when they are first called, in seconds, with the result kept on disk."""

from __future__ import annotations

import hashlib
import logging
import pickle
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

_Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Hash of all kernels: Numba checks whether a kernel's own file has changed, but not the files of what it inlines."""


class _Cache(FunctionCache):  # type: ignore[misc]  # Numba ships no types
    """Numba's cache of one function, which does without where the disk is full or a file is damaged."""

    def _index_key(self, *arguments: Any) -> tuple[Any, ...]:
        return (*super()._index_key(*arguments), SOURCES)

    def load_overload(self, *arguments: Any) -> Any:
        kept = self._or_warn(super().load_overload, *arguments)
        if kept is None:  # after a warning it is compiled again
            _announce()
        return kept

    def save_overload(self, *arguments: Any) -> None:
        self._or_warn(super().save_overload, *arguments)

    def _or_warn(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            warnings.warn(
                f"A compiled kernel cannot be kept in {self.cache_path}, so it is compiled by every process: "
                f"{error!r}. Make room there or delete what is in it, or name another folder in NUMBA_CACHE_DIR.",
                stacklevel=1,
            )
            return None


@cache
def _announce() -> None:
    """Say what takes so long, once in a process."""
    logging.getLogger(__name__).warning("Compiling kernels for this processor, once: about half a minute ...")


def _compiled(**options: Any) -> _Decorator:
    """Return a decorator that has Numba compile a function, and keep the result on disk where that is possible."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        dispatcher = numba.njit(nogil=True, error_model="numpy", **options)(function)
        with suppress(RuntimeError):  # no folder can be written
            dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate


# Contraction to fused multiply-adds is all that rounding allows: sums in another order would undo the reduction of
# exponents.
in_order = _compiled(fastmath={"contract", "nsz"})
reordered = _compiled(fastmath={"contract", "nsz", "reassoc"})
inlined = numba.njit(inline="always")
