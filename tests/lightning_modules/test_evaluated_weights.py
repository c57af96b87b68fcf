"""Raw and averaged weights are evaluated beside each other, each image once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F

from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


class Averaging(Callback):
    """Stands in for weight averaging: an averaged network that is the raw one with other classifier weights."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        averaged = copy.deepcopy(pl_module.student)
        with torch.no_grad():
            averaged.get_submodule("head.linear").get_parameter("bias").copy_(torch.tensor([100.0, 0, 0, 0]))
        pl_module.set_unregistered("ema_student", averaged)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(pl_module, ImageClassification)
        assert pl_module.ema_student is not None
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        state = pl_module.ema_student.state_dict()
        checkpoint["state_dict"] = {f"student.{key}": value for key, value in state.items()}


class Saving(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


def test_raw_and_averaged_weights_are_both_validated_in_fit_and_from_a_checkpoint(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tiny_data: TinyData, tmp_path: Path
) -> None:
    path = tmp_path / "averaged.ckpt"
    trainer = make_trainer(callbacks=[Averaging(), Saving(path)])
    module = ImageClassification(tiny)
    trainer.fit(module, datamodule=tiny_data)
    in_fit = {key: value for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
    # The averaged network always says class 0, which a quarter of the images are.
    assert in_fit["val/top1_ema"] == 0.25
    assert in_fit["val/loss_ema"] > in_fit["val/loss_raw"]
    assert module.ema_student is None

    fresh = ImageClassification(tiny)
    [validated] = make_trainer().validate(fresh, tiny_data, ckpt_path=path, verbose=False)
    assert validated == pytest.approx({key: value.item() for key, value in in_fit.items()}, rel=1e-5)
    [tested] = make_trainer().test(fresh, tiny_data, ckpt_path=path, verbose=False)
    assert tested["test/top1"] == 0.25
    assert tested.keys() == {"test/top1", "test/macro_accuracy", "test/f1", "test/loss"}


def test_validation_metrics_are_means_over_samples_not_batches(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig
) -> None:
    torch.manual_seed(0)
    module = ImageClassification(tiny)
    data = TinyData(samples=10, batch_size=7)  # a full batch and one of three
    [logged] = make_trainer().validate(module, data, verbose=False)
    images, targets = data.dataset(1).tensors
    with torch.no_grad():
        logits = module.student.eval()(images)
    assert logged["val/loss_raw"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)
    assert logged["val/top1_raw"] == pytest.approx((logits.argmax(1) == targets).float().mean().item())
