"""The same computation however the tests are called: one thread in this process and in those that it starts."""

import os
from collections.abc import Iterator

import pytest

# Threads that wait for each other on busy cores are ten times slower.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import torch  # reads the variables

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    """Seed torch before each test, and undo its change of how processes share memory."""
    torch.manual_seed(0)
    strategy = torch.multiprocessing.get_sharing_strategy()
    yield
    torch.multiprocessing.set_sharing_strategy(strategy)
