"""The same computation however the tests are called: one thread in this process and in those that it starts."""

import os

import pytest

# Threads that wait for each other on busy cores are ten times slower.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"))

import torch  # reads the variables

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give each test the same random numbers, whichever tests ran before it."""
    torch.manual_seed(0)
