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
from mobilemamba import MobileMambaConfig, load_network
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]
State = dict[str, Tensor]
WARMUP = [1 - k ** (-2 / 3) for k in range(1, 10)]


class Ordered(TinyData):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(0), batch_size=self.batch_size)


class Kept(Callback):
    """Keeps raw and averaged states, averages by hand, and may save after the first epoch.

    Args:
        path: Of the checkpoint.
        decays: One for every step.
    """

    def __init__(self, path: Path | None = None, decays: list[float] | None = None) -> None:
        self.path = path
        self.decays = decays
        self.expected: State = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = self._states(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.decays is None:
            return
        decay = self.decays.pop(0)
        for name, value in self._states(pl_module)["raw"].items():
            is_averaged = name in self.expected and value.is_floating_point()
            self.expected[name] = decay * self.expected[name] + (1 - decay) * value if is_averaged else value

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.path is not None and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.end = self._states(pl_module)

    def _states(self, pl_module: LightningModule) -> dict[str, State]:
        assert isinstance(pl_module, ImageClassification)
        networks = {"raw": pl_module.student, "ema": pl_module.ema_student}
        return {
            kind: {name: value.clone() for name, value in network.state_dict().items()}
            for kind, network in networks.items()
            if network is not None
        }


def equal(actual: State, expected: State) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


def close(actual: State, expected: State) -> None:
    for name, value in actual.items():
        torch.testing.assert_close(value, expected[name], msg=name)


@pytest.mark.parametrize(
    ("warmup", "decays", "precision"), [(False, [0.9] * 3, "32-true"), (True, WARMUP[:3], "64-true")]
)
def test_all_floating_state_is_averaged_in_the_precision_of_the_weights(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, warmup: bool, decays: list[float], precision: Any
) -> None:
    kept = Kept(decays=list(decays))
    callbacks = [EMA(decay=0.9, warmup=warmup), kept]
    trainer = make_trainer(callbacks=callbacks, limit_val_batches=0, precision=precision)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert any("running_mean" in name for name in kept.expected)
    close(kept.end["ema"], kept.expected)
    floating = torch.float64 if precision == "64-true" else torch.float32
    assert {value.dtype for value in kept.end["ema"].values()} == {floating, torch.int64}


def test_the_average_is_kept_on_the_device_of_training(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    trainer, module, averaging = make_trainer(), ImageClassification(tiny), EMA()
    trainer.strategy._root_device = torch.device("meta")  # type: ignore[attr-defined]  # a device of every machine
    averaging.setup(trainer, module, "fit")
    assert module.ema_student is not None
    assert {value.device.type for value in module.ema_student.state_dict().values()} == {"meta"}
    assert {value.device.type for value in module.student.state_dict().values()} == {"cpu"}


@pytest.mark.gpu
def test_the_average_of_a_gpu_training_stays_there(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    kept = Kept()
    trainer = make_trainer(accelerator="gpu", callbacks=[EMA(decay=0.5), kept])
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    for states in (kept.start, kept.end):
        assert {value.device.type for state in states.values() for value in state.values()} == {"cuda"}
    assert "val/top1_ema" in trainer.callback_metrics


def test_both_weights_are_validated_and_saved(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    teacher = TeacherConfig(name="test_resnet", pretrained=False, class_indices=[0, 1, 2, 3])
    kept = Kept(tmp_path / "run.ckpt")
    trainer = make_trainer(callbacks=[EMA(decay=0.5), kept])
    trainer.fit(ImageClassification(tiny, teacher=teacher), datamodule=TinyData())
    metrics = trainer.callback_metrics
    assert metrics.keys() >= {"val/top1_raw", "val/top1_ema", "val/loss_raw", "val/loss_ema"}
    assert metrics["val/loss_raw"] != metrics["val/loss_ema"]
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert not any("teacher" in key for key in content["state_dict"])
    for weights, expected in kept.end.items():
        network, _ = load_network(tmp_path / "run.ckpt", weights)  # type: ignore[arg-type]
        equal(network.state_dict(), expected)


def fit(make_trainer: MakeTrainer, tiny: MobileMambaConfig, *callbacks: Callback, resumed: Path | None = None) -> None:
    """Train for three epochs of three steps, on the same batches each time."""
    torch.manual_seed(0)
    trainer = make_trainer(max_epochs=3, limit_val_batches=0, callbacks=list(callbacks))
    trainer.fit(ImageClassification(tiny), datamodule=Ordered(), ckpt_path=resumed, weights_only=True)


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided:UserWarning")
def test_a_resume_continues_the_average_exactly_or_goes_on_with_the_raw_weights(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    uninterrupted, resumed, without = Kept(tmp_path / "first_epoch.ckpt"), Kept(), Kept()
    fit(make_trainer, tiny, EMA(decay=0.9, warmup=True), uninterrupted)
    fit(make_trainer, tiny, EMA(decay=0.9, warmup=True), resumed, resumed=uninterrupted.path)
    for kind, state in resumed.end.items():
        equal(state, uninterrupted.end[kind])
    with pytest.warns(UserWarning, match="does not average .*resumes the raw weights"):
        fit(make_trainer, tiny, without, resumed=uninterrupted.path)
    equal(without.end["raw"], uninterrupted.end["raw"])


def test_a_resume_of_a_run_without_average_begins_one(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    # The first step is copied, and those after it are averaged as at the beginning of a run.
    uninterrupted, kept = Kept(tmp_path / "raw.ckpt"), Kept(decays=WARMUP[:6])
    fit(make_trainer, tiny, uninterrupted)
    with pytest.warns(UserWarning, match="not created with WeightAveraging") as caught:
        fit(make_trainer, tiny, EMA(decay=0.99, warmup=True), kept, resumed=uninterrupted.path)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    network, _ = load_network(tmp_path / "raw.ckpt", "raw")
    equal(kept.start["ema"], network.state_dict())
    equal(kept.end["raw"], uninterrupted.end["raw"])
    close(kept.end["ema"], kept.expected)


def test_an_impossible_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ema\.decay = 1\.5"):
        EMA(decay=1.5)
