"""Runs as processes on this machine: a pool of threads, and a queue of devices."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Lock

from experiments.studies.devices import Worker
from experiments.studies.runs import LOG, Run, log_line

STOP_SECONDS = 30.0
"""Seconds that a run has to end after SIGINT."""


class LocalLauncher:
    """Starts processes on this machine.

    Args:
        workers: Devices for one run each.
        program: The ``lightning`` command.
        inherited: File descriptors that the processes keep open, such as that of a lock.
    """

    poll_seconds = 0.1

    def __init__(self, workers: Sequence[Worker], program: Sequence[str], inherited: Sequence[int] = ()) -> None:
        self.capacity = len(workers)
        self.program = tuple(program)
        self.inherited = tuple(inherited)
        self._free: SimpleQueue[Worker] = SimpleQueue()
        for worker in workers:
            self._free.put(worker)
        self._pool = ThreadPoolExecutor(self.capacity)
        self._jobs: list[Future[int]] = []
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        """Held while a process is started, so that none is started after stop."""
        self._stopping = False

    def submit(self, runs: Sequence[Run], started: Callable[[Run, str], None]) -> list[Future[int]]:
        """Start each run as soon as a worker is free."""
        for run in runs:  # one by one, so that none is lost if Ctrl-C comes in between
            self._jobs.append(self._pool.submit(self._fit, run, started))
        return self._jobs[len(self._jobs) - len(runs) :]

    def stop(self) -> None:
        """Send SIGINT to all processes, including loader processes; kill those that do not end."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._stopping = True
        self._signal(signal.SIGINT)
        try:
            wait([job for job in self._jobs if not job.cancelled()], STOP_SECONDS)
        finally:  # also after a second Ctrl-C
            self._signal(signal.SIGKILL)
            self._pool.shutdown()

    def _fit(self, run: Run, started: Callable[[Run, str], None]) -> int:
        worker = self._free.get()
        try:
            process = self._start(run, worker, started)
            try:
                return process.wait()
            finally:
                self._processes.remove(process)
        finally:
            self._free.put(worker)

    def _start(self, run: Run, worker: Worker, started: Callable[[Run, str], None]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopping:
                raise CancelledError
            run.prepare()
            started(run, worker.name)
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
                    pass_fds=self.inherited if os.name == "posix" else (),
                    # The study receives Ctrl-C and passes it on.
                    start_new_session=True,
                )
            self._processes.add(process)
            return process

    def _signal(self, number: signal.Signals) -> None:
        for process in list(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
