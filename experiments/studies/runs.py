"""One arm with one seed: its folder, its command, how far it is, and why it has failed."""

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
"""Begins the line of a log that says what was started; what follows is its output."""

NO_SPACE = os.strerror(errno.ENOSPC)
"""What programs write where a disk is full."""

LITTLE_SPACE = 2**30
"""Bytes: what a failed write of a checkpoint, which is deleted, may leave free on a full disk."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Args:
        arm: The arm's name.
        seed: The seed.
        folder: Where fit writes, STUDY/runs/ARM/seed_S.
        config: The arm's whole config.
    """

    arm: str
    seed: int
    folder: Path
    config: Path

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from, None where the run has not finished an epoch."""
        path = self.folder / LAST_CHECKPOINT
        return path if path.is_file() else None

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``lightning`` that run it, or go on with it."""
        both = ["fit", "--config", str(self.config), "--seed_everything", str(self.seed), "--data.seed", str(self.seed)]
        both += ["--run.folder", str(self.folder.parents[1]), "--run.name", self.arm, "--run.version", self.folder.name]
        checkpoint = self.checkpoint
        return both if checkpoint is None else [*both, "--ckpt_path", str(checkpoint)]

    def record(self) -> RunRecord | None:
        """Return what the run has recorded of itself, None before its first validation."""
        return RunRecord.read(self.folder)

    def is_finished(self) -> bool:
        """Return whether training has ended by itself."""
        record = self.record()
        return record is not None and record.finished

    def prepare(self) -> None:
        """Make the folder ready for a start: what cannot be continued is deleted, but for the log."""
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
        """Return the lines that fit has printed since it was last started, without empty ones."""
        path = self.folder / LOG
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        starts = [number for number, line in enumerate(lines) if line.startswith(COMMAND)]
        return [line.strip() for line in lines[starts[-1] + 1 if starts else 0 :] if line.strip()]

    def reason(self) -> str:
        """Return the line of the log that says why fit failed."""
        lines = self.output()
        errors = [line for line in lines if line.startswith("error:")]
        return (errors or lines or ["it printed nothing"])[-1].removeprefix("error:").strip()

    def has_filled_disk(self) -> bool:
        """Return whether fit has failed because the disk of its folder, not another such as /dev/shm, was full."""
        said = any(NO_SPACE in line for line in self.output())
        return said and shutil.disk_usage(self.folder).free < LITTLE_SPACE


def log_line(command: Sequence[str]) -> bytes:
    """Return the line that goes before the output of a command into its log."""
    return f"{COMMAND}{shlex.join(command)}\n".encode()


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
