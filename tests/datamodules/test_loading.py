"""Loader processes that hang or are killed: an error that says what helps, and no process is left."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.loading import end_loader_processes, leave_signals, loader_failure


class Broken(Dataset[int]):
    """A data set in which one item hangs or kills its process."""

    def __init__(self, number: int | None) -> None:
        self.number = number

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2 and self.number is None:
            time.sleep(60)
        if index == 2 and self.number is not None:
            os.kill(os.getpid(), self.number)
        return index


def broken(number: int | None, **options: Any) -> DataLoader[int]:
    return DataLoader(Broken(number), num_workers=1, worker_init_fn=leave_signals, **options)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (None, "within data.loader_timeout: the storage hangs, or shared memory is full"),
        (
            signal.SIGBUS,
            "A loader process was ended from outside .*(Bus error|exited unexpectedly).* a smaller data.num_workers",
        ),
    ],
)
def test_what_has_become_of_a_loader_process_is_said(number: int | None, expected: str) -> None:
    with pytest.raises(RuntimeError, match="DataLoader") as caught:
        list(broken(number, timeout=2))
    end_loader_processes()
    assert not multiprocessing.active_children()
    message = loader_failure(caught.value)
    assert message is not None
    assert re.search(expected, message), message
    assert loader_failure(RuntimeError("another")) is None


def test_processes_that_are_left_are_ended_at_once() -> None:
    loader = broken(None, persistent_workers=True)
    next(iter(loader))
    [process] = multiprocessing.active_children()
    begun = time.monotonic()
    end_loader_processes()
    assert not process.is_alive()
    assert time.monotonic() - begun < 5
