"""All runs of a study, as many at a time as there is room for; a failed one is tried once more."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from experiments.studies.progress import StudyProgress
from experiments.studies.runs import FAILURE, LOG, Run
from mobilemamba.errors import UserError

ATTEMPTS = 2


class Job(Protocol):
    """A run that was submitted; a :class:`concurrent.futures.Future` is one."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self) -> int:
        """Return the exit status of fit."""


class Launcher(Protocol):
    """A place where runs are started.

    Attributes:
        capacity: Runs that it takes at a time.
        poll_seconds: Seconds between two looks at the jobs.
    """

    capacity: int
    poll_seconds: float

    def submit(self, runs: Sequence[Run], started: Callable[[Run, str], None]) -> Sequence[Job]:
        """Start runs as soon as there is room, and tell ``started`` of each and where it runs."""

    def stop(self) -> None:
        """End all that was submitted and has not ended."""


def run_all(runs: Sequence[Run], launcher: Launcher, progress: StudyProgress) -> list[Run]:
    """Run all that are not finished, and return those that failed twice.

    A run that fails takes no other with it, unless the disk is full. However this ends, no run goes on after it.

    Args:
        runs: Runs in the order in which to start them.
        launcher: Where they run.
        progress: What is told of them.

    Raises:
        UserError: When the disk is full.
        KeyboardInterrupt: After Ctrl-C, SIGTERM or SIGHUP.
    """
    waiting: list[Run] = []
    for run in runs:
        if run.is_finished():
            progress.skipped(run)
        else:
            waiting.append(run)
    jobs: dict[Run, Job] = {}
    attempts: Counter[Run] = Counter()
    failed: list[Run] = []
    with _terminable():
        try:
            while jobs or waiting:
                if waiting:
                    jobs |= zip(waiting, launcher.submit(waiting, progress.started), strict=True)
                    waiting = []
                for run in [run for run, job in jobs.items() if job.done()]:
                    status = jobs.pop(run).result()
                    attempts[run] += 1
                    if _ended_well(run, status, progress):
                        continue
                    if attempts[run] < ATTEMPTS:
                        progress.retried(run, run.reason())
                        waiting.append(run)
                    else:
                        progress.failed(run, run.reason())
                        _note(run, status)
                        failed.append(run)
                progress.refresh()
                if jobs:
                    time.sleep(launcher.poll_seconds)
        finally:
            launcher.stop()
    return failed


def _ended_well(run: Run, status: int, progress: StudyProgress) -> bool:
    if status == 0 and run.is_finished():
        progress.finished(run)
        return True
    if run.has_filled_disk():
        raise UserError(
            f"The disk of {run.folder} is full, all runs were stopped: make room and run the same command again; "
            "each run goes on from its last whole checkpoint."
        )
    if run.is_finished():
        # Training has ended and its figures are kept; what came after it, such as an export, does not need it again.
        progress.finished(run, f", but then failed with status {status}: {run.reason()}")
        return True
    return False


def _note(run: Run, status: int) -> None:
    (run.folder / FAILURE).write_text(
        f"{run.label} failed {ATTEMPTS} times, the last time with status {status}.\n{run.reason()}\n"
        f"The whole output is in {run.folder / LOG}\n"
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM, as a batch system or a shutdown sends it, and SIGHUP, the end of the terminal, like Ctrl-C.

    SIGINT is taken too: a script that starts a study in the background has it ignored, and what is ignored here would
    be by the runs, which are stopped by it.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with ExitStack() as after:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            # Under nohup SIGHUP is ignored, and stays so.
            if number is not None and (name == "SIGINT" or signal.getsignal(number) != signal.SIG_IGN):
                after.callback(signal.signal, number, signal.signal(number, interrupt))
        yield
