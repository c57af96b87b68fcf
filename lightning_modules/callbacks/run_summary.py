"""What a run has written, where, and how to look at it: printed when fit ends."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from lightning_modules.callbacks.checkpoints import BestCheckpoint
from lightning_modules.inspection import find_callback, run_config

COMMANDS_TITLE = "Commands for the best weights (predict your own images with --data.predict_folder FOLDER):"


class RunSummary(Callback):
    """Print accuracies, files and commands to copy at the end of fit.

    Hooks: ``on_fit_end``, on the first process. Callbacks with something to say have a method ``summary_lines``.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary."""
        config = run_config(trainer)
        if not trainer.is_global_zero:
            return
        stop_progress_bar(trainer)
        table = Table(title="This run", show_header=False, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        # Paths are folded, never cut: they are to be copied.
        table.add_column(overflow="fold")
        for title, text in summarise(trainer, config):
            table.add_row(title, text)
        # Piped into a file the width is unknown: rather long lines than broken paths.
        console = Console()
        console = console if console.is_terminal else Console(width=200)
        console.print(table)
        best = find_callback(trainer, BestCheckpoint)
        if config is not None and best is not None and best.best_model_path:
            # Not in the table, whose border would be copied too.
            print("\n".join([COMMANDS_TITLE, *evaluation_commands(config, best.best_model_path)]), flush=True)


def summarise(trainer: Trainer, config: Path | None) -> list[tuple[str, str]]:
    """Return titles and texts of what a fit leaves behind.

    Args:
        trainer: A trainer at the end of fit.
        config: The run's config.yaml, if there is one.
    """
    metrics = trainer.callback_metrics
    lines = [
        (f"{name} at the end", f"{float(metrics[key]):.2%}")
        for key, name in (("val/top1_ema", "top-1, EMA weights"), ("val/top1_raw", "top-1, raw weights"))
        if key in metrics
    ]
    for checkpoint in trainer.checkpoint_callbacks:
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
            score = checkpoint.best_model_score
            text = path = checkpoint.best_model_path
            if checkpoint.monitor is not None and score is not None:
                text += f" ({checkpoint.monitor} {float(score):.2%})"
            lines.append((f"{Path(path).stem} checkpoint", text))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        lines += callback.summary_lines() if hasattr(callback, "summary_lines") else []
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            lines.append(("curves", shlex.join(["tensorboard", "--logdir", logger.root_dir])))
    return lines if config is None else [*lines, ("config", str(config))]


def evaluation_commands(config: Path, checkpoint: str) -> list[str]:
    """Return commands that evaluate and use a checkpoint of the run with that config."""
    both = ["--config", str(config), "--ckpt_path", checkpoint]
    table = str(config.parent / "predictions.csv")
    return [
        shlex.join(["lightning", "validate", *both]),
        shlex.join(["lightning", "test", *both]),
        shlex.join(["lightning", "predict", *both, "--predictions.path", table]),
    ]


def stop_progress_bar(trainer: Trainer) -> None:
    """Let a live bar end where it is: it would be drawn over what is printed below it, and would break its lines."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar):
        bar.teardown(trainer, trainer.lightning_module, "fit")
