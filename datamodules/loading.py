"""Loaders of a run that can be stopped by a signal after any step, and goes on with the next batch; what ends them."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader


class ResumedLoader(DataLoader[Any]):
    """A loader whose sampler begins where the trainer's loop was; it needs no state of its own.

    A trainer warns of a resume inside an epoch unless the loader has the two methods.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: batches that were loaded ahead do not count, and the trainer knows how many were used."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""


def leave_signals(worker: int) -> None:
    """Leave signals to a whole group of processes, such as Ctrl-C, to the training process, which needs its loaders.

    It tells them to end in another way. A second SIGTERM, with which it makes sure of that, ends them.

    Args:
        worker: Index of this loader process.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def end_next_time(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, end_next_time)


def end_loader_processes() -> None:
    """End those that a failed or interrupted run has left: otherwise the interpreter may wait for them for ever.

    What it sends them are two SIGTERMs in a row, which on a busy machine arrive as one.
    """
    has_children = hasattr(signal, "SIGCHLD")
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if has_children else None  # torch's calls this a failure
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    if has_children:
        signal.signal(signal.SIGCHLD, handler)


def loader_failure(error: BaseException) -> str | None:
    """Return what has become of a loader process, and what helps; None for an error of another kind.

    Args:
        error: What torch has raised.
    """
    text = str(error)
    is_of_loader = isinstance(error, RuntimeError) and "DataLoader" in text
    if is_of_loader and "timed out" in text:
        return (
            "No batch came from the loader processes within data.loader_timeout: the storage hangs, or shared memory "
            "is full (df -h /dev/shm; in a container, docker run --shm-size=16g). Go on from the last checkpoint with "
            "a smaller data.num_workers, or a longer data.loader_timeout where reading is slow."
        )
    is_ended = is_of_loader and ("killed by signal" in text or "exited unexpectedly" in text)
    if is_ended or _is_of_lost_memory(error):
        reason = text.split(".")[0].strip() or type(error).__name__
        return (
            f"A loader process was ended from outside ({reason}): memory or shared memory is full "
            "(free -h; df -h /dev/shm; in a container, docker run --shm-size=16g). Go on from the last checkpoint with "
            "a smaller data.num_workers or data.batch_size."
        )
    return None


def _is_of_lost_memory(error: BaseException) -> bool:
    """Return whether a batch's memory was asked of a process that had just ended, of which torch knew nothing yet."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "torch.multiprocessing.reductions" for frame, _ in frames)
