"""Progress of a study: a line for every finished run, and a bar with the current runs and the remaining time."""

from __future__ import annotations

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.studies.runs import Run


class StudyProgress:
    """Prints and counts the results of runs; to be used as a context.

    Args:
        total: Runs of the study, including finished ones.
        capacity: Runs at a time.
        console: Where to print.
    """

    def __init__(self, total: int, capacity: int, console: Console) -> None:
        self.console = console
        self.capacity = capacity
        self.total = total
        self.done = 0
        self._durations: list[float] = []
        self._started: dict[Run, float] = {}
        self._bar = Progress(
            TextColumn("{task.fields[state]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, state="", left="")

    def __enter__(self) -> StudyProgress:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the bar."""
        self._bar.stop()

    def skipped(self, run: Run) -> None:
        """Report a run that was finished earlier."""
        self._end(f"{run.label}: skipped, it is finished")

    def started(self, run: Run, place: str) -> None:
        """Report the start of a run; may be called from any thread."""
        self._started[run] = time.monotonic()
        self._print(f"{run.label}: started on {place}{', resumed' if run.checkpoint is not None else ''}")

    def finished(self, run: Run, remark: str = "") -> None:
        """Report a completed run; the remark names a failure after training."""
        seconds = self._took(run)
        self._durations.append(seconds)
        record = run.record()
        metrics = {} if record is None else record.metrics
        top1 = metrics.get("val/top1_ema", metrics.get("val/top1_raw"))
        accuracy = "" if top1 is None else f", top-1 {top1:.2%}"
        self._end(f"{run.label}: finished in {_clock(seconds)}{accuracy}{remark}")

    def retried(self, run: Run, reason: str) -> None:
        """Report a run that has failed for the first time."""
        self._print(f"{run.label}: FAILED after {_clock(self._took(run))}, will be tried again: {reason}")

    def failed(self, run: Run, reason: str) -> None:
        """Report a run that has failed again."""
        self._end(f"{run.label}: FAILED AGAIN after {_clock(self._took(run))}: {reason}")

    def refresh(self) -> None:
        """Show the current runs and the remaining time on a terminal."""
        if not self._bar.disable:  # each state is read from a file
            self._bar.update(self._task, state="; ".join(map(_state, list(self._started))), left=self.time_left())

    def time_left(self) -> str:
        """Return an estimate of the remaining time from the mean of finished runs, "" before the first."""
        if not self._durations:
            return ""
        mean = sum(self._durations) / len(self._durations)
        elapsed = sum(time.monotonic() - begun for begun in list(self._started.values()))
        work = max(0.0, (self.total - self.done) * mean - elapsed)
        return f"about {_clock(work / min(self.capacity, max(1, self.total - self.done)))} left"

    def _took(self, run: Run) -> float:
        return time.monotonic() - self._started.pop(run)

    def _end(self, line: str) -> None:
        self.done += 1
        self._bar.update(self._task, completed=self.done)
        self._print(f"[{self.done}/{self.total}] {line}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _state(run: Run) -> str:
    record = run.record()
    return run.label if record is None else f"{run.label}, epoch {record.epochs}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
