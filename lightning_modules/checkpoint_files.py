"""Checkpoints that are whole or not there: on a full disk Lightning leaves a part of one under its final name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint under a temporary name and renames it, so that the one before is kept until then."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: Its content.
            path: File; one that is there is replaced.
            storage_options: None.

        Raises:
            OSError: When it cannot be written.
        """
        final = Path(path)
        unfinished = final.with_name(f".{final.name}.unfinished")
        try:
            super().save_checkpoint(checkpoint, unfinished, storage_options)
            os.replace(unfinished, final)
        except BaseException:  # Ctrl-C too
            unfinished.unlink(missing_ok=True)
            raise


def keep_checkpoints_whole(trainer: Trainer) -> None:
    """Let a trainer that saves as Lightning does by default save whole files only."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpoints()
