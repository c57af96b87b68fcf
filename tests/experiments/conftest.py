"""Where and how the commands of the experiments are run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the commands are meant to be run."""
    monkeypatch.chdir(ROOT)
    # Lightning warns of arguments given in both ways.
    monkeypatch.setattr(sys, "argv", ["lightning"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in one thread: several that wait for each other on busy cores are ten times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
