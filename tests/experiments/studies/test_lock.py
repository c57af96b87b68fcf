"""A folder is held by one study at a time, where its file system can hold it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from experiments.studies.lock import locked
from mobilemamba.errors import UserError


def test_a_folder_is_held_once(tmp_path: Path) -> None:
    with locked(tmp_path) as descriptor:
        assert descriptor is not None
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()} "), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    if number == errno.EIO:
        with pytest.raises(OSError, match="error"), locked(tmp_path):
            pass
        return
    with locked(tmp_path) as descriptor:
        assert descriptor is None
    assert "knows no locks" in capsys.readouterr().err
