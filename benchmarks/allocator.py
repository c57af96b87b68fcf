"""Freed memory that stays with the process, so that its history does not decide how fast a network is."""

from __future__ import annotations

import ctypes
import functools
import sys

# From <malloc.h> of glibc.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
NEVER = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Have glibc hand freed memory out again instead of returning it to the system, for the rest of the process.

    By default that depends on the sizes freed so far. Where a large block is returned, its next use costs page faults:
    two networks, four images a call, had ratios between 0.99 and 1.06 from one process to the next, and after this
    call between 1.05 and 1.08 (three processes of each, medians).

    Returns:
        Whether it is so now; other systems and C libraries have no such setting and are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
