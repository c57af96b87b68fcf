"""Whether a run has failed because its disk is full."""

from __future__ import annotations

import errno
import os
import shutil

from experiments.studies.runs import Run

NO_SPACE = os.strerror(errno.ENOSPC)
"""What programs write where a disk is full."""

LITTLE_SPACE = 2**30
"""Bytes: what a failed write of a checkpoint, which is deleted, may leave free on a full disk."""


def is_full(run: Run) -> bool:
    """Return whether a run has failed because the disk of its folder, not another such as /dev/shm, was full."""
    said = any(NO_SPACE in line for line in run.output())
    return said and shutil.disk_usage(run.folder).free < LITTLE_SPACE
