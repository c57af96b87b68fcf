"""One study in a folder at a time, runs that a killed study left behind included."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilemamba.errors import UserError

FILE_NAME = ".lock"

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer, such as some of networks and clusters."""


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Hold a folder, and yield the descriptor of its lock for processes that shall hold it too.

    The system lets go of the lock when the last process with the descriptor ends, however that comes about. Where the
    system (Windows) or the file system knows no such locks nothing is held, and None is yielded.

    Args:
        folder: The study's folder; must exist.

    Raises:
        UserError: When another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    descriptor = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 100).decode() or "?"
            raise UserError(
                f"{folder} is in use by process {holder} or a run that it started: wait until they have ended, or "
                "choose another --output."
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            warning = f"warning: the file system of {folder} knows no locks ({error.strerror})"
            print(f"{warning}: run one study there at a time.", file=sys.stderr)
            yield None
            return
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
