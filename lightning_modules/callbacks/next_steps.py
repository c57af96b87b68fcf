"""What can be done with a run: commands to copy, printed where they stay."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar


def evaluation_commands(config: Path, checkpoint: Path) -> list[str]:
    """Return commands that evaluate and use a checkpoint.

    Args:
        config: The run's config.yaml.
        checkpoint: One of its checkpoints.
    """
    both = ["--config", str(config), "--ckpt_path", str(checkpoint)]
    table = str(config.parent / "predictions.csv")
    return [
        shlex.join(["lightning", "validate", *both]),
        shlex.join(["lightning", "test", *both]),
        shlex.join(["lightning", "predict", *both, "--predictions.path", table]),
    ]


def resume_command(config: Path, checkpoint: Path) -> str:
    """Return the command that goes on training from a checkpoint."""
    return shlex.join(["lightning", "fit", "--config", str(config), "--ckpt_path", str(checkpoint)])


def export_command(checkpoint: Path) -> str:
    """Return the command that makes a deployment file of a checkpoint."""
    return shlex.join(["mobilemamba", "export", "--checkpoint", str(checkpoint), "--format", "onnx"])


def stop_progress_bar(trainer: Trainer) -> None:
    """Let a live bar end where it is: it would be drawn over what is printed below it, and would break its lines."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar):
        bar.teardown(trainer, trainer.lightning_module, "fit")
