"""Locks a folder of results, so that one process at a time uses it."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import lock_descriptor

from mobilemamba.errors import UserError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""Errors of file systems without locks, such as some network file systems."""


@contextmanager
def locked(folder: Path, other_folder: str, patience: float = 0.0) -> Iterator[int]:
    """Lock a folder, and yield the descriptor of the lock for child processes that share it.

    The system releases the lock when the last process with the descriptor ends, so that the runs of a killed study
    still keep others out. On a file system without locks a warning is printed and nothing is locked.

    Args:
        folder: An existing folder.
        other_folder: The option that chooses another folder, for the message.
        patience: Seconds to wait: loader processes end a few seconds after a killed training process.

    Raises:
        UserError: When another process has locked it.
    """
    latest = time.monotonic() + patience
    with (folder / ".lock").open("a+") as file:
        try:
            while not (is_held := lock_descriptor(file.fileno(), blocking=False)) and time.monotonic() < latest:
                time.sleep(0.2)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            is_held = True
            warning = f"warning: the file system of {folder} has no locks ({error.strerror})"
            print(f"{warning}: use the folder with only one command at a time.", file=sys.stderr)
        if not is_held:
            file.seek(0)
            raise UserError(
                f"{folder} is in use by process {file.read() or '?'} or its children: wait until they end, or choose "
                f"another {other_folder}."
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()
