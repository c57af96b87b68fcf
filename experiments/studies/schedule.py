"""All runs of a study, as many at a time as there is room for; a failed one is tried once more."""

from __future__ import annotations

import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from experiments.studies.disk import is_full
from experiments.studies.jobs import Job, Launcher
from experiments.studies.progress import StudyProgress
from experiments.studies.runs import FAILURE, LOG, Run
from mobilemamba.errors import UserError

ATTEMPTS = 2
STOP_SECONDS = 30.0
"""How long a run may take to end after it was asked to."""


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
    pending = deque(_unfinished(runs, progress))
    attempts: Counter[Run] = Counter()
    running: list[Job] = []
    failed: list[Run] = []
    with _terminable():
        try:
            while pending or running:
                room = min(launcher.capacity - len(running), len(pending))
                if room:
                    started = launcher.start([pending.popleft() for _ in range(room)])
                    running += started
                    for job in started:
                        progress.started(job)
                for job in [job for job in running if job.status() is not None]:
                    running.remove(job)
                    attempts[job.run] += 1
                    if _ended_well(job, progress):
                        continue
                    if attempts[job.run] < ATTEMPTS:
                        progress.retried(job.run, job.run.reason())
                        pending.append(job.run)
                    else:
                        progress.failed(job.run, job.run.reason())
                        _note(job)
                        failed.append(job.run)
                progress.running(job.run for job in running)
                if running:
                    time.sleep(launcher.poll_seconds)
        finally:
            # Not only those in `running`: where a start fails, others of the same call have begun.
            _stop([job for job in launcher.jobs if job.status() is None])
    return failed


def _unfinished(runs: Sequence[Run], progress: StudyProgress) -> Iterator[Run]:
    for run in runs:
        if run.is_finished():
            progress.skipped(run)
        else:
            yield run


def _ended_well(job: Job, progress: StudyProgress) -> bool:
    if job.status() == 0 and job.run.is_finished():
        progress.finished(job.run)
        return True
    if is_full(job.run):
        raise UserError(
            f"The disk of {job.run.folder} is full, all runs were stopped: make room and run the same command again; "
            "each run goes on from its last whole checkpoint."
        )
    if job.run.is_finished():
        # Training has ended and its figures are kept; what came after it, such as an export, does not need it again.
        progress.finished(job.run, f", but then failed with status {job.status()}: {job.run.reason()}")
        return True
    return False


def _note(job: Job) -> None:
    log = job.run.folder / LOG
    (job.run.folder / FAILURE).write_text(
        f"{job.run.label} failed {ATTEMPTS} times, the last time with status {job.status()}.\n{job.run.reason()}\n"
        f"The whole output is in {log}\n"
    )


def _stop(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.stop()
    deadline = time.monotonic() + STOP_SECONDS
    for job in jobs:
        job.wait(max(0.0, deadline - time.monotonic()))


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
