"""Seeds for code that draws from the global random generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import get_worker_info


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators inside the context.

    Their state is restored afterwards, except in a loader process, where nothing else draws and saving the state of
    three generators takes longer than seeding them.

    Args:
        seed: A number from 0 to 2^63 - 1.
    """
    if get_worker_info() is not None:
        seed_generators(seed)
        yield
        return
    with kept_generators():
        seed_generators(seed)
        yield


def kept_generators() -> AbstractContextManager[None]:
    """Restore the state of Python's, NumPy's and torch's CPU generators after the context."""
    return isolate_rng(include_cuda=False)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's CPU generators by a number from 0 to 2^63 - 1."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well, and is slow
