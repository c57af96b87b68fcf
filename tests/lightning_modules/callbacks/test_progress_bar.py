"""The progress bar fits into 80 columns."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from lightning.pytorch import Trainer
from rich.console import Console

from lightning_modules.callbacks import EMA, ShortProgressBar, Throughput
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData


@pytest.mark.parametrize("averaging", [True, False])
def test_the_bar_shows_few_figures_in_few_columns(
    logged: Callable[..., Trainer], tiny: MobileMambaConfig, averaging: bool
) -> None:
    class Kept(ShortProgressBar):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: object) -> None:
            super().on_train_epoch_end(trainer, pl_module)  # type: ignore[arg-type]
            assert self.progress is not None
            console = Console(file=io.StringIO(), width=80, legacy_windows=False)
            console.print(self.progress.get_renderable())
            self.shown = console.file.getvalue()  # type: ignore[attr-defined]
            self.metrics = self.get_metrics(trainer, pl_module)  # type: ignore[arg-type]

    bar = Kept()
    callbacks = [*([EMA()] if averaging else []), Throughput(), bar]
    trainer = logged(version=12345, max_epochs=2, callbacks=callbacks, enable_progress_bar=True)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert list(bar.metrics) == ["loss", "top1", "img/s"]
    top1 = trainer.callback_metrics[f"val/top1_{'ema' if averaging else 'raw'}"]
    assert bar.metrics["top1"] == f"{float(top1):.1%}"
    first, *rest = bar.shown.splitlines()
    assert first.startswith("Epoch 1/1 ")
    assert "img/s: " in first
    assert not "".join(rest).strip()
