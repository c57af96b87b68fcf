"""The first training batch is drawn once, as the network sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from datamodules.mixing import MixingConfig
from lightning_modules.callbacks import SampleImages, sample_images
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


def test_first_batch_is_drawn_as_the_network_sees_it(
    logged: MakeTrainer, tiny: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mixed(TinyData):
        mixing = MixingConfig(label_smoothing=0.3)

        def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
            images, targets = batch
            if self.trainer is None or not self.trainer.training:
                return images, targets
            labels = F.one_hot(targets, 4).float()
            return 0.75 * images + 0.25 * images.flip(0), 0.75 * labels + 0.25 * labels.flip(0)

    drawn: list[tuple[Any, ...]] = []
    smoothing: list[float] = []
    seen: list[Tensor] = []
    draw = sample_images.draw_samples

    def keep(*given: Any, **named: float) -> Figure:
        drawn.append(given)
        smoothing.append(named["smoothing"])
        return draw(*given, **named)

    monkeypatch.setattr(sample_images, "draw_samples", keep)
    module = ImageClassification(tiny)
    module.student.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]) if module.training else None)
    trainer = logged(callbacks=[SampleImages(count=3)], num_sanity_val_steps=0)
    trainer.fit(module, datamodule=Mixed())
    (images, targets, mean, std, names, title), *others = drawn
    assert not others
    assert smoothing == [0.3]
    assert torch.equal(images, seen[0][:3])
    assert targets.sum(1).tolist() == [1, 1, 1]
    assert set(targets.flatten().tolist()) <= {0, 0.25, 0.75, 1}
    assert (mean, std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert names == ("class 0", "class 1", "class 2", "class 3")
    assert "3 of the 8 images" in title
