"""The progress bar: few figures, so that it fits into 80 columns."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import BatchesProcessedColumn, CustomBarColumn
from rich.progress import ProgressColumn, TextColumn, TimeRemainingColumn


class ShortProgressBar(RichProgressBar):
    """Show epoch, batches, remaining time, loss, top-1 and images per second."""

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Return the columns before the metrics."""
        return [
            TextColumn("[progress.description]{task.description}"),
            CustomBarColumn(
                bar_width=8,
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            BatchesProcessedColumn(style=self.theme.batch_progress),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        ]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the metrics as short texts; top-1 is that of the averaged weights, if there are any."""
        logged = super().get_metrics(trainer, pl_module)
        logged.pop("v_num", None)
        shown: dict[str, Any] = {}
        for name, short, style in (
            ("train/loss", "loss", ".3g"),
            ("val/top1_raw", "top1", ".1%"),
            ("val/top1_ema", "top1", ".1%"),
            ("train/images_per_second", "img/s", ".0f"),
        ):
            if name in logged:
                shown[short] = format(logged.pop(name), style)
        return shown | logged
