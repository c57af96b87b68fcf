"""Whether a study fits on the disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from experiments.studies.errors import StudyError
from experiments.studies.plan import Plan
from experiments.studies.runs import Run

NO_SPACE = os.strerror(errno.ENOSPC)
"""What programs write where a disk is full."""

LITTLE_SPACE = 2**30
"""Bytes: what a failed write of a checkpoint, which is deleted, may leave free on a full disk."""


def check_space(plan: Plan, runs: Iterable[Run], folder: Path) -> None:
    """Check that the checkpoints of all runs fit, besides what is there of them.

    Args:
        plan: The study.
        runs: Those that are still to be run.
        folder: The study's folder, or where it will be.

    Raises:
        StudyError: When there is too little space; says how much is needed.
    """
    sizes = {planned.name: planned.bytes_per_run for planned in plan.arms}
    needed = sum(max(0, sizes[run.arm] - _size(run.folder)) for run in runs)
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise StudyError(
            f"The disk of {existing} has {free / 1e9:.1f} GB free, but checkpoints of all runs may take "
            f"{needed / 1e9:.1f} GB: choose another disk by --output, make room, or run fewer --arms or --seeds."
        )


def is_full(run: Run) -> bool:
    """Return whether a run has failed because the disk of its folder, not another such as /dev/shm, was full."""
    said = any(NO_SPACE in line for line in run.output())
    return said and shutil.disk_usage(run.folder).free < LITTLE_SPACE


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
