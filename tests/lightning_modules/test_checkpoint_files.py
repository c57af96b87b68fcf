"""A checkpoint that cannot be written leaves the one before it, and nothing of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from lightning_modules.checkpoint_files import (
    WholeCheckpoints,
    keep_checkpoints_whole,
    newest_whole_checkpoint,
    previous_checkpoint,
)
from mobilemamba.errors import UserError

resource = pytest.importorskip("resource")


@contextmanager
def files_end_after(size: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    files = WholeCheckpoints()
    files.save_checkpoint({"step": 1}, path)
    with files_end_after(10_000), pytest.raises(OSError, match="File too large"):
        files.save_checkpoint({"step": 2, "weights": torch.zeros(10_000)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
    files.save_checkpoint({"step": 3}, path)
    assert torch.load(path, weights_only=True) == {"step": 3}


def test_trainers_save_whole_files(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    keep_checkpoints_whole(trainer)
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)

    class Own(TorchCheckpointIO):
        pass

    chosen = make_trainer(plugins=[Own()])
    keep_checkpoints_whole(chosen)
    assert type(chosen.strategy.checkpoint_io) is Own


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_resumes_from_its_newest_undamaged_checkpoint(tmp_path: Path) -> None:
    last, files = tmp_path / "last.ckpt", WholeCheckpoints()
    before = previous_checkpoint(last)
    assert newest_whole_checkpoint(last) is None
    files.save_checkpoint({"step": 1}, before)
    assert newest_whole_checkpoint(last) == (before, {"step": 1})
    files.save_checkpoint({"step": 2}, last)
    assert newest_whole_checkpoint(last) == (last, {"step": 2})
    damage(last)
    with pytest.warns(UserWarning, match=r"last\.ckpt is damaged.*resumes from .*last\.previous\.ckpt"):
        assert newest_whole_checkpoint(last) == (before, {"step": 1})
    damage(before)
    with pytest.raises(UserError, match=r"There is no other checkpoint to resume from"):
        newest_whole_checkpoint(last)
    with pytest.raises(UserError, match="damaged"):
        files.load_checkpoint(last)


def test_a_run_killed_before_its_first_last_checkpoint_goes_on_from_the_best(tmp_path: Path) -> None:
    WholeCheckpoints().save_checkpoint({"step": 1}, tmp_path / "best.ckpt")
    (tmp_path / ".last.ckpt.abc.unfinished").mkdir()
    assert newest_whole_checkpoint(tmp_path / "last.ckpt") == (tmp_path / "best.ckpt", {"step": 1})
