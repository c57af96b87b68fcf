"""A run that goes on with another number of images per step is where as many images have been seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules import DigitsDataModule
from lightning_modules.classification import ImageClassification
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig, learning_rate_factor
from mobilemamba import MobileMambaConfig

SMALL = MobileMambaConfig(num_classes=10, stem_stride=4, widths=(16, 16, 32), depths=(1, 1, 1))
SCHEDULE = ScheduleConfig(warmup_epochs=0)


class Rates(Callback):
    """Keeps the learning rate of every step, and a checkpoint of one inside the second epoch."""

    def __init__(self, path: Path, batch: int | None = None) -> None:
        self.path, self.batch = path, batch
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == self.batch:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.parametrize(("reference", "is_measured_in_steps"), [(512, False), (None, False), (None, True)])
def test_schedule_rate_and_position_follow_the_images(
    reference: int | None,
    is_measured_in_steps: bool,
    make_trainer: Callable[..., Trainer],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    optimizer = OptimizerConfig(reference_batch_size=reference)

    def fit(batch_size: int, batch: int | None = None, **options: Any) -> list[float]:
        rates = Rates(tmp_path / "some.ckpt", batch)
        length = {"max_epochs": -1, "max_steps": 22 * 128 // batch_size} if is_measured_in_steps else {"max_epochs": 2}
        trainer = make_trainer(callbacks=[rates], limit_val_batches=0, use_distributed_sampler=False, **length)
        module = ImageClassification(SMALL, optimizer=optimizer, schedule=SCHEDULE)
        data = DigitsDataModule(batch_size=batch_size, image_size=16, num_workers=0)
        trainer.fit(module, datamodule=data, weights_only=True, **options)
        return rates.rates

    fit(128, batch=3)  # 11 steps in an epoch; stopped after 15, 8 batches of 64 into the second
    rates = fit(64, ckpt_path=tmp_path / "some.ckpt")
    assert "resumes with 64 images per step instead of 128" in caplog.text
    peak = optimizer.scaled_learning_rate(64)
    assert rates == pytest.approx(
        [peak * learning_rate_factor(step, 44, 0, SCHEDULE) for step in range(30, 44)], rel=1e-3
    )
