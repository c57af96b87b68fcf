"""What a launcher does: it starts runs, and says when they have ended."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from experiments.studies.runs import Run
from mobilemamba.errors import UserError


class Job(Protocol):
    """A run that was started.

    Attributes:
        run: The run.
        place: Where it runs, in words.
    """

    run: Run
    place: str

    def status(self) -> int | None:
        """Return the exit status of fit, None while it runs."""

    def stop(self) -> None:
        """Ask it to end; returns at once."""

    def wait(self, seconds: float) -> None:
        """Wait until it has ended, and end it by force after that many seconds."""


class Launcher(Protocol):
    """A place where runs are started.

    Attributes:
        capacity: Runs that it takes at a time.
        poll_seconds: Seconds between two looks at the jobs.
        jobs: All that were started and may still run.
    """

    capacity: int
    poll_seconds: float
    jobs: list[Job]

    def start(self, runs: Sequence[Run]) -> list[Job]:
        """Start runs, at most as many as the capacity leaves room for; each job is in ``jobs`` as soon as it runs."""


def lightning_program() -> tuple[str, ...]:
    """Return the ``lightning`` command of this environment.

    Raises:
        UserError: When there is none.
    """
    beside = Path(sys.executable).with_name("lightning")
    found = str(beside) if beside.is_file() else shutil.which("lightning")
    if found is None:
        raise UserError(f"There is no `lightning` command beside {sys.executable}: install this package with pip.")
    return (found,)
