"""Prints a run's results, files and further commands when fit ends."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_modules.callbacks.checkpoints import BestCheckpoint
from lightning_modules.dense import DenseTask
from lightning_modules.inspection import find_callback, run_config

COMMANDS_TITLE = "Commands for the best weights (predict your own images with --data.predict_folder FOLDER):"


class RunSummary(Callback):
    """Print accuracies, files and commands to copy at the end of fit.

    Hooks: ``on_fit_end``, on the first process. Callbacks can add lines with a method ``summary_lines``.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary."""
        config = run_config(trainer)
        if not trainer.is_global_zero:
            return
        stop_progress_bar(trainer)
        rows = summarise(trainer, config)
        width = max((len(title) for title, _ in rows), default=0)
        # One line each, since a table would wrap long paths, which users copy.
        lines = ["This run", *(f"  {title:{width}}  {text}" for title, text in rows)]
        best = find_callback(trainer, BestCheckpoint)
        if config is not None and best is not None and best.best_model_path:
            has_table = not isinstance(pl_module, DenseTask)  # its predictions are pictures, in the run's folder
            lines += ["", COMMANDS_TITLE, *activation(), *evaluation_commands(config, best.best_model_path, has_table)]
        print("\n".join(lines), flush=True)


def summarise(trainer: Trainer, config: Path | None) -> list[tuple[str, str]]:
    """Return titles and texts of a fit's results and files.

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


def activation() -> list[str]:
    """Return the command that activates this Python's environment, if the shell does not find its ``lightning``."""
    programs = Path(sys.prefix) / ("Scripts" if sys.platform == "win32" else "bin")
    found, script = shutil.which("lightning"), programs / "activate"
    if (found is not None and Path(found).parent.resolve() == programs.resolve()) or not script.is_file():
        return []
    return [shlex.join([*([] if sys.platform == "win32" else ["source"]), str(script)])]


def evaluation_commands(config: Path, checkpoint: str, has_table: bool) -> list[str]:
    """Return commands that evaluate and use a checkpoint.

    Args:
        config: The run's config.
        checkpoint: A checkpoint of the run.
        has_table: Whether predictions are a table, which needs a path.
    """
    both = ["--config", str(config), "--ckpt_path", checkpoint]
    table = ["--predictions.path", str(config.parent / "predictions.csv")] if has_table else []
    return [
        shlex.join(["lightning", "validate", *both]),
        shlex.join(["lightning", "test", *both]),
        shlex.join(["lightning", "predict", *both, *table]),
    ]


def stop_progress_bar(trainer: Trainer) -> None:
    """Stop a live progress bar, which would be drawn over later output."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, RichProgressBar):
        bar.teardown(trainer, trainer.lightning_module, "fit")
