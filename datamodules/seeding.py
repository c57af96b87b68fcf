"""Random draws that depend on a seed alone, by code that draws from the global generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators for a while; afterwards they go on as if nothing was drawn.

    Args:
        seed: A number from 0 to 2^63 - 1.
    """
    with isolate_rng(include_cuda=False):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well, and is slow
        yield
