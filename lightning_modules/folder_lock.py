"""One process at a time in a folder of results."""

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
"""What file systems without locks answer, such as some of networks and clusters."""


@contextmanager
def locked(folder: Path, other_folder: str, patience: float = 0.0) -> Iterator[int]:
    """Hold a folder, and yield the descriptor of its lock for processes that shall hold it too.

    The system lets go of the lock when the last process with the descriptor ends, so that the runs of a killed study
    keep others out. Where the file system knows no locks, nothing is held, and a warning says so.

    Args:
        folder: The folder; must exist.
        other_folder: The option by which another is chosen, for the message.
        patience: Seconds to wait for it: loader processes end a few seconds after a training process that was killed.

    Raises:
        UserError: When another process holds it.
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
            warning = f"warning: the file system of {folder} knows no locks ({error.strerror})"
            print(f"{warning}: use the folder by one command at a time.", file=sys.stderr)
        if not is_held:
            file.seek(0)
            raise UserError(
                f"{folder} is in use by process {file.read() or '?'} or one that it started: wait until they have "
                f"ended, or choose another {other_folder}."
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()
