"""Loader processes and signals, how to end them, and what their errors mean."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from types import FrameType


def ignore_signals(worker: int) -> None:
    """Ignore signals to the process group, such as Ctrl-C: the training process handles them and ends its loaders.

    The first SIGTERM is ignored too. The training process sends a second one to make sure that loaders end.

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
    """Kill the loader processes of a failed or interrupted run: otherwise the interpreter may wait for them for ever.

    torch sends them two SIGTERMs in a row, which may arrive as one on a busy machine.
    """
    has_children = hasattr(signal, "SIGCHLD")
    # torch's handler would raise an error when a loader process is killed.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if has_children else None
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    if has_children:
        signal.signal(signal.SIGCHLD, handler)


def loader_failure(error: BaseException) -> str | None:
    """Return a message and remedy for torch's error about a loader process; None for any other error."""
    text = str(error)
    is_of_loader = isinstance(error, RuntimeError) and "DataLoader" in text
    if is_of_loader and "timed out" in text:
        return (
            "No batch came from the loader processes within data.loader_timeout: the storage hangs, or shared memory "
            "is full (df -h /dev/shm; in a container, docker run --shm-size=16g). Resume from the last checkpoint with "
            "a smaller data.num_workers, or with a longer data.loader_timeout if reading is slow."
        )
    is_killed = is_of_loader and ("killed by signal" in text or "exited unexpectedly" in text)
    if is_killed or _is_of_lost_memory(error):
        reason = text.split(".")[0].strip() or type(error).__name__
        return (
            f"A loader process was killed ({reason}): memory or shared memory is full "
            "(free -h; df -h /dev/shm; in a container, docker run --shm-size=16g). Resume from the last checkpoint "
            "with a smaller data.num_workers or data.batch_size."
        )
    return None


def _is_of_lost_memory(error: BaseException) -> bool:
    """Return whether a batch's memory was asked of a process that was killed, before torch noticed."""
    places = (
        (frame.f_globals.get("__name__"), frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)
    )
    return any(module == "torch.multiprocessing.reductions" and name.startswith("rebuild") for module, name in places)
