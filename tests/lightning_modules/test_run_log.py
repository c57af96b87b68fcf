"""Histograms are those of the values, on devices without float64 too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.run_log import log_histogram
from tests.lightning_modules.small_runs import events, logged_trainer
from tests.mobilemamba.no_float64 import without_float64


def test_float32_needs_no_float64_on_the_device(tmp_path: Path) -> None:
    trainer = logged_trainer(tmp_path)
    with without_float64():
        log_histogram(trainer, "values", torch.tensor([1.0, 3.0, torch.inf]))
    trainer.loggers[0].save()
    (histogram,) = events(tmp_path).Histograms("values")
    value = histogram.histogram_value
    assert (value.min, value.max, value.num, value.sum, value.sum_squares) == (1, 3, 2, 4, 10)


def test_float64_on_the_device_would_fail() -> None:
    with without_float64(), pytest.raises(TypeError, match="float64"):
        torch.ones(1).double().cpu()
