"""Detects damage to files of torch.save: a checksum in the zip archive's comment, and the sizes that it declares.

torch.save writes a zip archive without comment. Readers ignore a comment, so any other program can still read the
file. The comment is ``sha256:`` and the digest, in hexadecimal digits, of all bytes before these digits.
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
"""Bytes of the record at the archive's end: its signature first, the length of the comment last."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_checksum(path: Path) -> None:
    """Add the checksum to a file that torch.save wrote."""
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write((len(MARK) + DIGITS).to_bytes(2, "little"))
        file.write(MARK)
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(digest)


def check_file(path: Path) -> None:
    """Check the checksum of a file of torch.save, if it has one, and the sizes that it declares.

    Raises:
        UserError: When any bit has changed, or the content would be larger than the file itself.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # torch's older format, which has neither
            return
        file.seek(max(size - DIGITS - len(MARK) - END_SIZE, 0))
        end = file.read()
    # Files of other programs and of earlier versions have no comment.
    has_comment = not (end[-END_SIZE:].startswith(END) and end.endswith(b"\0\0"))
    if has_comment and (size < DIGITS or end[-DIGITS:] != _digest(path, size - DIGITS)):
        raise UserError(
            f"Checkpoint {path} is damaged: its checksum is wrong. Use an earlier one, such as last.previous.ckpt or "
            "best.ckpt beside it, and check the disk."
        )
    _check_sizes(path, size)


def _digest(path: Path, size: int) -> bytes:
    """Return the SHA-256 of a file's first bytes in hexadecimal digits."""
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
            "does not compress. If you trust it, save it again with torch.save."
        )
