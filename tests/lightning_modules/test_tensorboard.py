"""Histograms are those of the values, on devices without float64 too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from lightning_modules.tensorboard import add_histogram
from tests.lightning_modules.logged_events import events
from tests.mobilemamba.no_float64 import without_float64


def test_float32_needs_no_float64_on_the_device(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "run" / "version_0")) as writer, without_float64():
        add_histogram(writer, "values", torch.tensor([1.0, 3.0, torch.inf]), 0)
    (histogram,) = events(tmp_path).Histograms("values")
    value = histogram.histogram_value
    assert (value.min, value.max, value.num, value.sum, value.sum_squares) == (1, 3, 2, 4, 10)


def test_float64_on_the_device_would_fail() -> None:
    with without_float64(), pytest.raises(TypeError, match="float64"):
        torch.ones(1).double().cpu()
