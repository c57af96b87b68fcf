"""What a run has written, where, and how to look at it: printed when fit ends."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from lightning_modules.callbacks.checkpoints import BestCheckpoint
from lightning_modules.callbacks.export import ExportAtEnd
from lightning_modules.callbacks.next_steps import evaluation_commands, stop_progress_bar
from lightning_modules.callbacks.non_finite import NonFiniteGuard
from mobilemamba.export import report_path

COMMANDS_TITLE = "Commands for the best weights (predict your own images with --data.predict_folder FOLDER):"


class RunSummary(Callback):
    """Print accuracies, files and commands to copy at the end of fit.

    Hooks: ``on_fit_end``, on the first process.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the summary."""
        lines, commands = summarise(trainer), usage(trainer)
        if not trainer.is_global_zero:
            return
        stop_progress_bar(trainer)
        table = Table(title="This run", show_header=False, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        # Paths are folded, never cut: they are to be copied.
        table.add_column(overflow="fold")
        for title, text in lines:
            table.add_row(title, text)
        # Piped into a file the width is unknown: rather long lines than broken paths.
        console = Console()
        console = console if console.is_terminal else Console(width=200)
        console.print(table)
        if commands:
            # Not in the table, whose border would be copied too.
            print("\n".join([COMMANDS_TITLE, *commands]), flush=True)


def summarise(trainer: Trainer) -> list[tuple[str, str]]:
    """Return titles and texts of what a fit leaves behind; to be called on all processes.

    Args:
        trainer: A trainer at the end of fit.
    """
    log_dir = trainer.log_dir
    lines = [*_accuracies(trainer), *_checkpoints(trainer)]
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, ExportAtEnd):
            lines += _exports(callback)
        if isinstance(callback, NonFiniteGuard) and callback.skipped:
            lines.append(("skipped", f"{callback.skipped} steps with a non-finite loss or gradients"))
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            lines.append(("curves", shlex.join(["tensorboard", "--logdir", logger.root_dir])))
    if log_dir is not None and (Path(log_dir) / "config.yaml").is_file():
        lines.append(("config", str(Path(log_dir) / "config.yaml")))
    return lines


def usage(trainer: Trainer) -> list[str]:
    """Return commands that use the best checkpoint with the run's config; to be called on all processes.

    Args:
        trainer: A trainer at the end of fit.
    """
    config = None if trainer.log_dir is None else Path(trainer.log_dir) / "config.yaml"
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), "")
    return evaluation_commands(config, Path(best)) if config is not None and config.is_file() and best else []


def _accuracies(trainer: Trainer) -> list[tuple[str, str]]:
    metrics = trainer.callback_metrics
    return [
        (f"{name} at the end", f"{float(metrics[key]):.2%}")
        for key, name in (("val/top1_ema", "top-1, EMA weights"), ("val/top1_raw", "top-1, raw weights"))
        if key in metrics
    ]


def _checkpoints(trainer: Trainer) -> list[tuple[str, str]]:
    lines = []
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or not callback.best_model_path:
            continue
        score = callback.best_model_score
        text = callback.best_model_path
        if callback.monitor is not None and score is not None:
            text += f" ({callback.monitor} {float(score):.2%})"
        lines.append((f"{Path(callback.best_model_path).stem} checkpoint", text))
    return lines


def _exports(callback: ExportAtEnd) -> list[tuple[str, str]]:
    lines = []
    for result in callback.results:
        title = f"{result.name} export"
        if result.report is None:
            lines.append((title, f"FAILED: {result.error}"))
            continue
        report = result.report
        if report.verdict == "converted, not run":
            outcome = "CONVERTED, NOT RUN: not compared with its network"
        else:
            error, agreement = report.max_abs_error, report.top1_agreement
            outcome = f"differs by {error:.1e} of the largest logit, same top class {agreement:.0%}"
        lines.append((title, f"{result.path} ({outcome})"))
        lines.append((f"{result.name} parity", str(report_path(result.path))))
    return lines
