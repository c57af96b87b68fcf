"""Writes checkpoints whole or not at all, with a checksum, and reads the newest undamaged one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from mobilemamba.checkpoints import read_file
from mobilemamba.checksums import append_checksum
from mobilemamba.errors import UserError
from mobilemamba.files import atomic_write


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints with a checksum, and keeps the old file until the new one is complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint, replacing the file of that name.

        Raises:
            OSError: When it cannot be written.
        """
        # Lightning would write it to memory and to the system's temporary folder, which may be too small.
        with atomic_write(Path(path)) as unfinished:
            try:
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides it behind an error about a short file
                    raise error.__context__ from error
                raise
            append_checksum(unfinished)
            descriptor = os.open(unfinished, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # the content must be on the disk before the file is renamed
            finally:
                os.close(descriptor)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, without running any code in it.

        Raises:
            FileNotFoundError: When there is no such file.
            UserError: When it is damaged or holds more than tensors and plain values.
        """
        return read_file(Path(path))


def keep_checkpoints_whole(trainer: Trainer) -> None:
    """Make a trainer with Lightning's default way of saving use WholeCheckpoints."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()


def previous_checkpoint(path: Path) -> Path:
    """Return the path of the previous checkpoint."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def newest_whole_checkpoint(last: Path) -> tuple[Path, dict[str, Any]] | None:
    """Find and read the checkpoint to resume from: the last one, otherwise the previous one, otherwise best.ckpt.

    Args:
        last: Path of the last checkpoint. Damaged files are skipped with a warning.

    Returns:
        Path and content; None if there is no checkpoint.

    Raises:
        UserError: When all checkpoints are damaged.
    """
    damage = ""
    for path in filter(Path.is_file, (last, previous_checkpoint(last), last.with_name("best.ckpt"))):
        try:
            found = path, read_file(path)
        except (UserError, OSError) as error:
            damage += f"{error} "
            continue
        if damage:
            rank_zero_warn(f"{damage}The run resumes from {path}, an earlier checkpoint.")
        return found
    if damage:
        raise UserError(f"{damage}There is no other checkpoint to resume from: start again with another run.version.")
    return None
