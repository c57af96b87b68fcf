"""Runs all runs of a study, as many at a time as possible; a failed run is tried again."""

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
    """A submitted run, such as a :class:`concurrent.futures.Future`."""

    def done(self) -> bool:
        """Return whether it has ended."""

    def result(self) -> int:
        """Return the exit status of fit."""


class Launcher(Protocol):
    """A place where runs are started.

    Attributes:
        capacity: Largest number of runs at a time.
        poll_seconds: Seconds between two checks of the jobs.
    """

    capacity: int
    poll_seconds: float

    def submit(self, runs: Sequence[Run], started: Callable[[Run, str], None]) -> Sequence[Job]:
        """Start runs as soon as possible, and call ``started`` with each and its place."""

    def stop(self) -> None:
        """End all submitted jobs."""


def run_all(runs: Sequence[Run], launcher: Launcher, progress: StudyProgress) -> list[Run]:
    """Run all runs that are not finished, and return those that failed twice.

    A failed run does not stop the others, unless the disk is full. No run continues after this function ends.

    Args:
        runs: Runs in the order in which to start them.
        launcher: Starts them.
        progress: Reports them.

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
            f"The disk of {run.folder} is full, and all runs were stopped: free some space and run the same command "
            "again; each run resumes from its last checkpoint."
        )
    if run.is_finished():
        # Training is complete and recorded; it need not be repeated for a failed export.
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
    """Treat SIGTERM (batch system, shutdown) and SIGHUP (end of the terminal) like Ctrl-C.

    SIGINT is handled too: a script that starts a study in the background ignores it, and the runs, which are stopped
    with it, would inherit this.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with ExitStack() as after:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            # nohup ignores SIGHUP, which is kept.
            if number is not None and (name == "SIGINT" or signal.getsignal(number) != signal.SIG_IGN):
                after.callback(signal.signal, number, signal.signal(number, interrupt))
        yield
