"""One arm with one seed: its folder, command, state and reason of failure."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_modules.run_record import LAST_CHECKPOINT, RunRecord
from mobilemamba.errors import UserError

LOG = "fit.log"
FAILURE = "failure.txt"
COMMAND = "$ "
"""Prefix of the line of a log with the started command; its output follows."""

NO_SPACE = os.strerror(errno.ENOSPC)
"""Error message of a full disk."""

LITTLE_SPACE = 2**30
"""Bytes that may be free on a full disk after an unfinished checkpoint was deleted."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Args:
        arm: The arm's name.
        seed: The seed.
        folder: Folder of the run, STUDY/runs/ARM/seed_S.
        config: The arm's complete config.
    """

    arm: str
    seed: int
    folder: Path
    config: Path

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to resume from, None before the end of the first epoch."""
        path = self.folder / LAST_CHECKPOINT
        return path if path.is_file() else None

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``lightning`` that start or resume the run."""
        both = ["fit", "--config", str(self.config), "--seed_everything", str(self.seed), "--data.seed", str(self.seed)]
        both += ["--run.folder", str(self.folder.parents[1]), "--run.name", self.arm, "--run.version", self.folder.name]
        checkpoint = self.checkpoint
        return both if checkpoint is None else [*both, "--ckpt_path", str(checkpoint)]

    def record(self) -> RunRecord | None:
        """Return the run's record, None before its first validation."""
        return RunRecord.read(self.folder)

    def is_finished(self) -> bool:
        """Return whether training is complete."""
        record = self.record()
        return record is not None and record.finished

    def prepare(self) -> None:
        """Prepare the folder for a start: without a checkpoint everything except the log is deleted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILURE).unlink(missing_ok=True)
        if self.checkpoint is not None:
            return
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOG:
                path.unlink()

    def output(self) -> list[str]:
        """Return the lines that fit has printed since its last start, without empty ones."""
        path = self.folder / LOG
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        starts = [number for number, line in enumerate(lines) if line.startswith(COMMAND)]
        return [line.strip() for line in lines[starts[-1] + 1 if starts else 0 :] if line.strip()]

    def reason(self) -> str:
        """Return the line of the log with the reason of failure."""
        lines = self.output()
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or ["it printed nothing"])[-1].removeprefix("error:").strip()

    def has_filled_disk(self) -> bool:
        """Return whether fit has failed because the disk of its folder was full (not another, such as /dev/shm)."""
        reports_no_space = any(NO_SPACE in line for line in self.output())
        return reports_no_space and shutil.disk_usage(self.folder).free < LITTLE_SPACE


def log_line(command: Sequence[str]) -> bytes:
    """Return the line of a log with a command, before its output."""
    return f"{COMMAND}{shlex.join(command)}\n".encode()


def lightning_program() -> tuple[str, ...]:
    """Return the ``lightning`` command of this environment.

    Raises:
        UserError: When it does not exist.
    """
    beside = Path(sys.executable).with_name("lightning")
    found = str(beside) if beside.is_file() else shutil.which("lightning")
    if found is None:
        raise UserError(f"There is no `lightning` command beside {sys.executable}: install this package with pip.")
    return (found,)
