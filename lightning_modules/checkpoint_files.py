"""Checkpoints that are whole or not there, and that say when a single bit of them has changed since."""

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
    """Keeps the checkpoint before until the new one is complete; each has a checksum, without which none is loaded."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint, which replaces the file of that name.

        Raises:
            OSError: When it cannot be written.
        """
        # Lightning would keep it in memory and in the system's folder for temporary files, which may be too small.
        with atomic_write(Path(path)) as unfinished:
            try:
                with unfinished.open("wb") as file:
                    torch.save(checkpoint, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # torch hides it behind its surprise about a short file
                    raise error.__context__ from error
                raise
            append_checksum(unfinished)
            descriptor = os.open(unfinished, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # a name must not reach the disk before its content
            finally:
                os.close(descriptor)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, onto the CPU and never with code.

        Raises:
            FileNotFoundError: When there is no such file.
            UserError: When it is damaged or holds more than tensors and plain values.
        """
        return read_file(Path(path))


def keep_checkpoints_whole(trainer: Trainer) -> None:
    """Let a trainer that saves as Lightning does by default save whole files only."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()


def previous_checkpoint(path: Path) -> Path:
    """Return where the checkpoint before one of this name is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def newest_whole_checkpoint(last: Path) -> tuple[Path, dict[str, Any]] | None:
    """Find the checkpoint that a run goes on from, and read it.

    Args:
        last: Where the last one is kept. Where it is damaged, which is warned of, the one before it is taken; where
            there is neither, best.ckpt, which is written before the first of them.

    Returns:
        Its path and content; None where there is neither.

    Raises:
        UserError: When there is no other than damaged ones.
    """
    damage = ""
    for path in filter(Path.is_file, (last, previous_checkpoint(last), last.with_name("best.ckpt"))):
        try:
            found = path, read_file(path)
        except (UserError, OSError) as error:
            damage += f"{error} "
            continue
        if damage:
            rank_zero_warn(f"{damage}The run goes on from {path}, a checkpoint before it.")
        return found
    if damage:
        raise UserError(f"{damage}There is no other to go on from: begin anew with another run.version.")
    return None
