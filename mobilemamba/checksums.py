"""Files of torch that show any change: a checksum in the zip archive's comment, and the sizes that it declares.

A file of torch.save is a zip archive without comment. Its readers pass over a comment, so the file stays what it was
for everyone else. The comment is ``sha256:`` and the digest, in hexadecimal digits, of all bytes before these digits.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

from mobilemamba.errors import UserError

MARK = b"sha256:"
DIGITS = 64
END = b"PK\x05\x06"
END_SIZE = 22
"""Bytes of the archive's end: its signature first, the length of the comment last."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_checksum(path: Path) -> None:
    """Add its checksum to a file that torch.save wrote."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write((len(MARK) + DIGITS).to_bytes(2, "little"))
        file.write(MARK)
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(digest)


def check_file(path: Path) -> None:
    """Check a file of torch against its checksum, where it has one, and the sizes that it declares.

    Raises:
        UserError: When a bit of it has changed, or its content would be larger than the file itself.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # of an older form, which has neither
            return
        file.seek(max(size - DIGITS - len(MARK) - END_SIZE, 0))
        end = file.read()
    # An archive without comment, of someone else or of an earlier version, ends with its end.
    if end[-END_SIZE:].startswith(END) and end.endswith(b"\0\0"):
        _check_sizes(path, size)
        return
    if size < DIGITS or end[-DIGITS:] != _digest(path, size - DIGITS):
        raise UserError(
            f"Checkpoint {path} is damaged: its bytes do not have its checksum. Use an earlier one, such as "
            "last.previous.ckpt or best.ckpt beside it, and check the disk."
        )
    _check_sizes(path, size)


def _digest(path: Path, size: int) -> bytes:
    """Return the digits of the checksum of a file's first bytes."""
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while size:
            part = file.read(min(size, 1 << 20))
            if not part:
                break
            checksum.update(part)
            size -= len(part)
    return checksum.hexdigest().encode()


def _check_sizes(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"Checkpoint {path} is damaged or not a PyTorch file: {error}") from error
    if declared > size:
        raise UserError(
            f"Checkpoint {path} is refused: its {size:,} bytes would become {declared:,} in memory, but torch.save "
            "compresses nothing. Re-save it with torch.save where you trust it."
        )
