"""Checkpoints that are whole or not there: on a full disk Lightning leaves a part of one under its final name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from mobilemamba.files import atomic_write


class WholeCheckpoints(TorchCheckpointIO):
    """Keeps the checkpoint before until the new one is complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint, which replaces the file of that name.

        Raises:
            OSError: When it cannot be written.
        """
        with atomic_write(Path(path)) as unfinished:
            super().save_checkpoint(checkpoint, unfinished, storage_options)


def keep_checkpoints_whole(trainer: Trainer) -> None:
    """Let a trainer that saves as Lightning does by default save whole files only."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()
