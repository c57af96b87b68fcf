"""Loader processes that hang or are killed: an error that says what helps, and no process is left."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import redirect_stdout
from multiprocessing import get_context, set_start_method
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.loader_processes import end_loader_processes, ignore_signals, loader_failure
from tests.spawned import QUICK


class Broken(Dataset[int]):
    """A data set in which one item hangs its process, or kills it by a signal."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2 and self.number:
            os.kill(os.getpid(), self.number)
        elif index == 2:
            time.sleep(600)
        return index


def load(number: int, timeout: float, output: Path) -> None:
    """Write what has become of the loader process and how long ending it took. Runs in a process of its own."""
    set_start_method(None, force=True)  # of loader processes, as in the command
    with output.open("w") as file, redirect_stdout(file):
        _load(number, timeout)


def _load(number: int, timeout: float) -> None:
    loader = DataLoader(
        Broken(number), num_workers=1, worker_init_fn=ignore_signals, timeout=timeout, persistent_workers=True
    )
    batches = iter(loader)
    next(batches)
    [process] = batches._workers
    try:
        try:
            list(batches)
        finally:  # before anything else: torch may raise an error once more for a process that was killed
            begun = time.monotonic()
            end_loader_processes()
            print(f"alive: {process.is_alive()}, ended in {time.monotonic() - begun:.1f} s")
    except Exception as error:
        print(loader_failure(error))


@pytest.mark.parametrize(
    ("number", "timeout", "expected"),
    [
        (0, 2, "within data.loader_timeout: the storage hangs, or shared memory is full"),
        (
            signal.SIGBUS,
            120,
            r"A loader process was killed \([\w\[].*\): .* a smaller data.num_workers",
        ),
    ],
    ids=["hangs", "killed"],
)
def test_an_error_of_a_loader_process_gets_a_message(
    number: int, timeout: float, expected: str, tmp_path: Path
) -> None:
    # torch raises its error in whatever the main process is doing, which must not be pytest.
    process = get_context(QUICK).Process(target=load, args=(number, timeout, tmp_path / "output.txt"))
    process.start()
    process.join(timeout=240)
    process.kill()  # where it hangs
    process.join()
    assert process.exitcode == 0
    output = (tmp_path / "output.txt").read_text()
    assert re.search(expected, output), output
    ended = re.search(r"alive: False, ended in ([\d.]+) s", output)
    assert ended is not None, output
    assert float(ended[1]) < 60


def test_errors_of_other_kinds_are_left_alone() -> None:
    assert loader_failure(RuntimeError("another")) is None
    assert loader_failure(ValueError("DataLoader timed out")) is None


@pytest.mark.parametrize(
    ("module", "function", "is_loaders"),
    [
        ("torch.multiprocessing.reductions", "rebuild_storage_fd", True),
        ("torch.multiprocessing.reductions", "reduce_tensor", False),
        ("botocore", "rebuild_auth", False),
    ],
)
def test_a_connection_to_a_process_that_has_just_ended_is_the_loaders(
    module: str, function: str, is_loaders: bool
) -> None:
    namespace = {"__name__": module}
    exec(f"def {function}(): raise ConnectionResetError(104, 'Connection reset by peer')", namespace)
    with pytest.raises(ConnectionResetError) as caught:
        namespace[function]()  # type: ignore[operator]
    message = loader_failure(caught.value)
    assert (message is not None and "killed ([Errno 104] Connection reset" in message) is is_loaders
