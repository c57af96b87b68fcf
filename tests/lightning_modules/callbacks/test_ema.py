"""Averaged weights: the arithmetic, both sets validated, and resuming exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules.callbacks import EMA
from lightning_modules.classification import ImageClassification
from lightning_modules.teacher import TeacherConfig
from mobilemamba import MobileMambaConfig, load_training_checkpoint
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


class Ordered(TinyData):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(0), batch_size=self.batch_size)


class States(Callback):
    """Keeps raw and averaged state after every step; its averages are computed by hand."""

    def __init__(self, decays: list[float]) -> None:
        self.decays = decays
        self.expected: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ImageClassification)
        decay = self.decays.pop(0)
        for name, value in pl_module.student.state_dict().items():
            if name in self.expected and value.is_floating_point():
                self.expected[name] = decay * self.expected[name] + (1 - decay) * value
            else:
                self.expected[name] = value.clone()


class Raw(Callback):
    """Keeps the raw state at the end of training, and may save after the first epoch."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is not None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        self.raw = {name: value.clone() for name, value in pl_module.student.state_dict().items()}


class Kept(Raw):
    """Keeps the averaged state too."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        assert isinstance(pl_module, ImageClassification)
        assert pl_module.ema_student is not None
        self.average = {name: value.clone() for name, value in pl_module.ema_student.state_dict().items()}


@pytest.mark.parametrize(
    ("warmup", "decays"), [(False, [0.9] * 3), (True, [0.0, 1 - 2 ** (-2 / 3), 1 - 3 ** (-2 / 3)])]
)
def test_all_floating_state_is_averaged(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, warmup: bool, decays: list[float]
) -> None:
    states, kept = States(list(decays)), Kept()
    trainer = make_trainer(callbacks=[EMA(decay=0.9, warmup=warmup), states, kept], limit_val_batches=0)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert any("running_mean" in name for name in kept.average)
    for name, value in kept.average.items():
        torch.testing.assert_close(value, states.expected[name], msg=name)


def test_the_average_is_kept_on_the_device_of_training(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    trainer, module, averaging = make_trainer(), ImageClassification(tiny), EMA()
    trainer.strategy._root_device = torch.device("meta")  # type: ignore[attr-defined]  # a device of every machine
    averaging.setup(trainer, module, "fit")
    assert module.ema_student is not None
    assert {value.device.type for value in module.ema_student.state_dict().values()} == {"meta"}
    assert {value.device.type for value in module.student.state_dict().values()} == {"cpu"}


@pytest.mark.gpu
def test_the_average_of_a_gpu_training_stays_there(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    class Devices(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert isinstance(pl_module, ImageClassification)
            assert pl_module.ema_student is not None
            for network in (pl_module.student, pl_module.ema_student):
                assert {value.device.type for value in network.state_dict().values()} == {"cuda"}

    trainer = make_trainer(accelerator="gpu", callbacks=[EMA(decay=0.5), Devices()])
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert "val/top1_ema" in trainer.callback_metrics


def test_the_average_has_the_precision_of_the_weights(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    kept = Kept()
    trainer = make_trainer(callbacks=[EMA(), kept], precision="64-true")
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert {value.dtype for value in kept.average.values()} == {torch.float64, torch.int64}


def test_both_weights_are_validated_and_saved(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    teacher = TeacherConfig(name="test_resnet", pretrained=False, class_indices=[0, 1, 2, 3])
    kept = Kept(tmp_path / "run.ckpt")
    trainer = make_trainer(callbacks=[EMA(decay=0.5), kept])
    module = ImageClassification(tiny, teacher=teacher)
    trainer.fit(module, datamodule=TinyData())
    assert trainer.callback_metrics.keys() >= {"val/top1_raw", "val/top1_ema", "val/loss_raw", "val/loss_ema"}
    assert trainer.callback_metrics["val/loss_raw"] != trainer.callback_metrics["val/loss_ema"]
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert not any("teacher" in key for key in content["state_dict"])
    for weights, expected in (("ema", kept.average), ("raw", kept.raw)):
        network, _ = load_training_checkpoint(tmp_path / "run.ckpt", weights)  # type: ignore[arg-type]
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_resuming_continues_the_average_exactly(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    path = tmp_path / "first_epoch.ckpt"

    def run(kept: Kept, ckpt_path: Path | None = None) -> Kept:
        torch.manual_seed(0)
        trainer = make_trainer(max_epochs=3, limit_val_batches=0, callbacks=[EMA(decay=0.9, warmup=True), kept])
        trainer.fit(ImageClassification(tiny), datamodule=Ordered(), ckpt_path=ckpt_path, weights_only=True)
        return kept

    uninterrupted, resumed = run(Kept(path)), run(Kept(), path)
    for name in uninterrupted.average:
        torch.testing.assert_close(resumed.average[name], uninterrupted.average[name], rtol=0, atol=0)
        torch.testing.assert_close(resumed.raw[name], uninterrupted.raw[name], rtol=0, atol=0)


def saved_run(make_trainer: MakeTrainer, tiny: MobileMambaConfig, path: Path, *callbacks: Callback) -> Raw:
    """Train for three epochs, and save after the first."""
    torch.manual_seed(0)
    raw = Raw(path)
    trainer = make_trainer(max_epochs=3, limit_val_batches=0, callbacks=[*callbacks, raw])
    trainer.fit(ImageClassification(tiny), datamodule=Ordered())
    return raw


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning")
def test_a_resume_without_averaging_goes_on_with_the_raw_weights(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    path = tmp_path / "averaged.ckpt"
    uninterrupted = saved_run(make_trainer, tiny, path, EMA(decay=0.9))
    raw = Raw()
    trainer = make_trainer(max_epochs=3, limit_val_batches=0, callbacks=[raw])
    with pytest.warns(UserWarning, match="does not average .*goes on with the raw ones"):
        trainer.fit(ImageClassification(tiny), datamodule=Ordered(), ckpt_path=path, weights_only=True)
    for name, value in uninterrupted.raw.items():
        torch.testing.assert_close(raw.raw[name], value, rtol=0, atol=0)


def test_a_resume_of_a_run_without_average_begins_one(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    path = tmp_path / "raw.ckpt"
    uninterrupted = saved_run(make_trainer, tiny, path)
    loaded = torch.load(path, weights_only=True)["state_dict"]

    class Begins(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, ImageClassification)
            assert pl_module.ema_student is not None
            for name, value in pl_module.ema_student.state_dict().items():
                torch.testing.assert_close(value, loaded[f"student.{name}"], rtol=0, atol=0)

    # The first step is copied, and those after it are averaged as at the beginning of a run.
    states, kept = States([0.0, 1 - 2 ** (-2 / 3), *(1 - k ** (-2 / 3) for k in range(3, 7))]), Kept()
    callbacks = [EMA(decay=0.99, warmup=True), Begins(), states, kept]
    trainer = make_trainer(max_epochs=3, limit_val_batches=0, callbacks=callbacks)
    with pytest.warns(UserWarning, match="not created with WeightAveraging") as caught:
        trainer.fit(ImageClassification(tiny), datamodule=Ordered(), ckpt_path=path, weights_only=True)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    for name, value in uninterrupted.raw.items():
        torch.testing.assert_close(kept.raw[name], value, rtol=0, atol=0)
        torch.testing.assert_close(kept.average[name], states.expected[name], msg=name)


def test_an_impossible_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ema\.decay = 1\.5"):
        EMA(decay=1.5)
