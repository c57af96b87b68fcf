"""Histograms and medians of decay lengths are those of the validation images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_modules.callbacks import ScanDecays, scan_decay
from lightning_modules.classification import ImageClassification
from lightning_modules.scan_memory import ScanDecay
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.logged_events import events
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


def test_histograms_and_medians_are_those_of_the_validation_images(
    logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, ScanDecay]] = []
    measure = scan_decay.scan_decays

    def keep(network: Any, images: Tensor) -> dict[str, ScanDecay]:
        assert torch.equal(images, TinyData().dataset(1).tensors[0][[0, 8, 16]])
        measured.append(measure(network, images))
        return measured[-1]

    monkeypatch.setattr(scan_decay, "scan_decays", keep)
    logged(callbacks=[ScanDecays(1, images=3)]).fit(ImageClassification(tiny), datamodule=TinyData())
    log = events(tmp_path)
    for block, decay in measured[-1].items():
        for tag, values in (
            (f"scan_step_size/{block}", decay.step_sizes),
            (f"scan_decay_length_log10/{block}", decay.decay_lengths.log10()),
        ):
            (event,) = log.Histograms(tag)
            histogram = event.histogram_value
            assert histogram.num == sum(histogram.bucket) == values.numel()
            assert (histogram.min, histogram.max) == pytest.approx((values.min().item(), values.max().item()))
            assert histogram.sum / histogram.num == pytest.approx(values.mean().item(), rel=1e-4)
            below = sum(
                count
                for count, limit in zip(histogram.bucket, histogram.bucket_limit, strict=True)
                if limit <= histogram.bucket_limit[31]
            )
            assert below == pytest.approx((values < histogram.bucket_limit[31]).sum().item(), abs=2)
        (median,) = log.Scalars(f"scan/decay_length_median/{block}")
        assert median.value == pytest.approx(decay.decay_lengths.median().item())
