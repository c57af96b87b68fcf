"""A folder of results is used by one process at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lightning_modules.folder_lock import locked


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    if number == errno.EIO:
        with pytest.raises(OSError, match="error"), locked(tmp_path, "--output"):
            pass
        return
    with locked(tmp_path, "--output"):
        pass
    assert "has no locks" in capsys.readouterr().err
