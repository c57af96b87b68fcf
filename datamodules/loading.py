"""Loaders of a run that can be stopped by a signal after any step, and goes on with the next batch."""

from __future__ import annotations

import signal
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
