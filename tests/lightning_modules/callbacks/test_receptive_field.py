"""Receptive fields before and after training, and what happens where there is none."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_modules.callbacks import EMA, ReceptiveField
from lightning_modules.classification import ImageClassification
from lightning_modules.receptive_field.gradient import contribution_map
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.known_results import Last
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


def test_receptive_fields_are_those_before_and_after(logged: MakeTrainer, tiny: MobileMambaConfig) -> None:
    class First(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, ImageClassification)
            self.network = copy.deepcopy(pl_module.student).eval()

    first, last, field = First(), Last(), ReceptiveField(images=2)
    trainer = logged(callbacks=[EMA(decay=0.5), first, field, last], max_epochs=2)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    images = TinyData().dataset(1).tensors[0][[0, 12]]
    assert list(field.maps) == ["before training", "after 6 steps"]
    for drawn, network in zip(field.maps.values(), (first.network, last.ema), strict=True):
        torch.testing.assert_close(drawn, contribution_map(network, images).float())


def test_a_field_that_cannot_be_measured_does_not_end_the_run(logged: MakeTrainer, tiny: MobileMambaConfig) -> None:
    module = ImageClassification(tiny)
    nn.init.zeros_(module.student.stem[0].conv.weight)  # nothing of an image passes
    trainer = logged(callbacks=[ReceptiveField(images=2)], limit_train_batches=1)
    with pytest.warns(UserWarning, match="is not drawn: The gradient .* is zero everywhere") as caught:
        trainer.fit(module, datamodule=TinyData())
    messages = [str(warning.message).partition(" is not drawn")[0] for warning in caught]
    assert [message for message in messages if message.startswith("The receptive field")] == [
        "The receptive field before training",
        "The receptive field after 1 steps",
    ]
    assert trainer.global_step == 1
