"""Files appear whole, with all that belongs to them, or not at all."""

import os
from pathlib import Path

import pytest

from mobilemamba.errors import UserError
from mobilemamba.files import _move_all, atomic_write, check_writable, write_bytes, write_text


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_the_older_one(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "older ±")

    def write_half() -> None:
        with atomic_write(path) as unfinished:
            unfinished.write_text("newer")
            raise error

    with pytest.raises(error):
        write_half()
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text(encoding="utf-8") == "older ±"
    write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("number", range(4))
def test_all_files_are_moved_or_none(number: int, moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished, target = tmp_path / "finished", tmp_path / "target"
    for folder in (finished, target):
        (folder / "package").mkdir(parents=True)
        for name in ("model", "package/part"):
            (folder / name).write_text(folder.name)

    def texts() -> list[str]:
        return [(target / name).read_text() for name in ("model", "package/part")]

    renames = []

    def rename(source: Path, destination: Path) -> None:
        renames.append(source)
        if len(renames) != number + 1 or moved:
            os.rename(source, destination)
        if len(renames) == number + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            _move_all(finished, target)
    assert texts() == ["target", "target"]
    (finished / "older").rmdir()
    _move_all(finished, target)
    assert texts() == ["finished", "finished"]
    assert sorted(os.listdir(target)) == ["model", "package"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(tmp_path)


def test_check_writable_creates_the_folder_and_leaves_it_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert os.listdir(tmp_path / "new" / "folder") == []
