"""Many networks compiled in one process.

Networks of one class share the code of their forward pass, of which torch.compile keeps eight compiled forms: the ninth
network runs uncompiled, with no more than a line in the log.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch._dynamo

MOST_COMPILED = 256
"""Forms of one function; torch.compile has a second limit, which allows as many."""


@contextmanager
def all_compiled(limit: int = MOST_COMPILED) -> Iterator[None]:
    """Compile that many networks of one class; one more is an error (``torch._dynamo.exc.FailOnRecompileLimitHit``).

    Args:
        limit: Forms of one function.
    """
    with torch._dynamo.config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
        yield
