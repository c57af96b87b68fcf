"""Runs as processes of this machine, one per worker at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from experiments.studies.devices import Worker
from experiments.studies.jobs import Job
from experiments.studies.runs import LOG, Run, log_line


class LocalJob:
    """A process of ``lightning fit``.

    Args:
        run: The run.
        place: Name of the worker whose devices it uses.
        process: The process, the first of its session.
    """

    def __init__(self, run: Run, place: str, process: subprocess.Popen[bytes]) -> None:
        self.run = run
        self.place = place
        self._process = process

    def status(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Send what Ctrl-C would send, to its loader processes too."""
        self._signal(signal.SIGINT)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, and kill it after that many seconds."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


class LocalLauncher:
    """Starts processes on this machine.

    Args:
        workers: Places for one run each.
        program: The ``lightning`` command.
        inherited: File descriptors that the processes keep open, such as that of a lock.
    """

    def __init__(self, workers: Sequence[Worker], program: Sequence[str], inherited: Sequence[int] = ()) -> None:
        self.workers = tuple(workers)
        self.capacity = len(self.workers)
        self.program = tuple(program)
        self.inherited = tuple(inherited)
        self.poll_seconds = 0.5
        self.jobs: list[Job] = []

    def start(self, runs: Sequence[Run]) -> list[Job]:
        """Start each run on a free worker."""
        self.jobs = [job for job in self.jobs if job.status() is None]
        busy = [job.place for job in self.jobs]
        free = [worker for worker in self.workers if worker.name not in busy]
        started: list[Job] = []
        for run, worker in zip(runs, free, strict=False):
            started.append(self._start(run, worker))
            self.jobs.append(started[-1])
        return started

    def _start(self, run: Run, worker: Worker) -> LocalJob:
        run.prepare()
        command = [*self.program, *run.arguments, *worker.arguments]
        with (run.folder / LOG).open("ab") as log:
            log.write(log_line(command))
            log.flush()  # before the process writes there
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **worker.environment},
                pass_fds=self.inherited,
                # Ctrl-C is for the study, which passes it on.
                start_new_session=True,
            )
        return LocalJob(run, worker.name, process)
