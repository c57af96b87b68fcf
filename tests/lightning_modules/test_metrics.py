"""Means keep what is not finite, and their weights."""

from __future__ import annotations

import torch

from lightning_modules.metrics import WeightedMean


def test_a_mean_has_weights_and_keeps_nan() -> None:
    mean = WeightedMean()
    mean.update(torch.tensor(1.0), 3)
    mean.update(torch.tensor([5.0, 9.0]), torch.tensor([1.0, 0.0]))
    assert mean.compute().item() == 2.0
    mean.update(torch.tensor(torch.nan))
    assert mean.compute().isnan()
    mean.reset()
    assert mean.weight == 0
