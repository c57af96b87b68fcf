"""Batches that are not finite leave no trace but the count, and stop the run when there are too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.callbacks import EMA, NonFiniteError, NonFiniteGuard
from lightning_modules.callbacks.non_finite import find_non_finite
from lightning_modules.classification import ImageClassification
from lightning_modules.optimization import ScheduleConfig
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]
SKIPPED = r"Step \d was skipped"


class BadBatches(TinyData):
    """Some of four batches of eight hold one infinite pixel.

    Args:
        bad: Index of the first bad batch, and how many are bad.
        batch_size: Less than eight makes more batches, of which the same images are bad.
    """

    def __init__(self, bad: tuple[int, int] = (2, 1), batch_size: int = 8) -> None:
        super().__init__(samples=32, batch_size=batch_size)
        self.bad = bad

    def train_dataloader(self) -> DataLoader[Any]:
        images, targets = self.dataset(0).tensors
        images = images.clone()
        first, count = self.bad
        images[8 * first : 8 * (first + count) : 8, 0, 3, 3] = torch.inf
        return DataLoader(TensorDataset(images, targets), batch_size=self.batch_size)


class States(Callback):
    def __init__(self) -> None:
        self.after: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ImageClassification)
        assert pl_module.ema_student is not None
        state = {f"raw.{name}": value.clone() for name, value in pl_module.student.state_dict().items()}
        state |= {f"ema.{name}": value.clone() for name, value in pl_module.ema_student.state_dict().items()}
        self.after.append(state)


def test_a_bad_batch_changes_no_weight_statistic_or_average(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    guard, states = NonFiniteGuard(), States()
    trainer = make_trainer(callbacks=[EMA(decay=0.5), guard, states], limit_val_batches=0, gradient_clip_val=5.0)
    module = ImageClassification(tiny, schedule=ScheduleConfig(warmup_epochs=0))
    with pytest.warns(UserWarning, match=SKIPPED):
        trainer.fit(module, datamodule=BadBatches())
    _, before, after, last = states.after
    # Averaging once more would be seen: the average is not the raw weights.
    assert any(not torch.equal(value, before[name.replace("raw", "ema")]) for name, value in before.items())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(value.isfinite().all() for value in last.values())
    assert any(not torch.equal(after[name], last[name]) for name in last)
    assert guard.skipped == 1
    assert trainer.callback_metrics["train/skipped_steps"] == 1


def test_a_bad_batch_spoils_only_its_own_accumulated_step(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    guard, states = NonFiniteGuard(), States()
    trainer = make_trainer(callbacks=[EMA(), guard, states], limit_val_batches=0, accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match=SKIPPED):
        trainer.fit(ImageClassification(tiny), datamodule=BadBatches(bad=(1, 1), batch_size=4))
    assert guard.skipped == 1
    assert all(value.isfinite().all() for value in states.after[-1].values())


def test_the_limit_stops_the_run_and_names_the_origin(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    trainer = make_trainer(callbacks=[NonFiniteGuard(limit=2)], limit_val_batches=0)
    with (
        pytest.warns(UserWarning, match=SKIPPED),
        pytest.raises(NonFiniteError, match=r"2 steps in a row .*non_finite\.limit.*images themselves"),
    ):
        trainer.fit(ImageClassification(tiny), datamodule=BadBatches(bad=(1, 2)))


def test_single_bad_steps_are_no_row(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    guard = NonFiniteGuard(limit=2)
    trainer = make_trainer(callbacks=[guard], limit_val_batches=0, max_epochs=2)
    with pytest.warns(UserWarning, match=SKIPPED):
        trainer.fit(ImageClassification(tiny), datamodule=BadBatches())
    assert guard.skipped == 2


class SpoiledStudent(Callback):
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        pl_module.student.get_parameter("head.linear.bias").data.fill_(torch.nan)


class Exported(Callback):
    reached = False

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.reached = True


@pytest.mark.filterwarnings("ignore:Step . was skipped:UserWarning")
@pytest.mark.parametrize(
    ("bad", "spoiling", "message"),
    [
        ((1, 3), [], "3 of 4 steps were skipped"),
        ((0, 0), [SpoiledStudent()], "val/loss_raw = nan: nothing is exported"),
    ],
)
def test_a_run_without_result_fails_before_the_export(
    bad: tuple[int, int], spoiling: list[Callback], message: str, make_trainer: MakeTrainer, tiny: MobileMambaConfig
) -> None:
    exported = Exported()
    trainer = make_trainer(callbacks=[NonFiniteGuard(), *spoiling, exported], num_sanity_val_steps=0)
    with pytest.raises(NonFiniteError, match=message):
        trainer.fit(ImageClassification(tiny), datamodule=BadBatches(bad))
    assert not exported.reached


def test_the_teacher_is_named(make_trainer: MakeTrainer, tiny: MobileMambaConfig) -> None:
    class Overflowing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :4] / 0

    class WithTeacher(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, ImageClassification)
            pl_module.set_unregistered("teacher", Overflowing())

    trainer = make_trainer(callbacks=[WithTeacher(), NonFiniteGuard(limit=1)], limit_val_batches=0)
    with (
        pytest.warns(UserWarning, match=SKIPPED),
        pytest.raises(NonFiniteError, match="the teacher's logits are not finite"),
    ):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())


# The first step is left out, which torch takes for a mistake in the order of calls.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step.*before `optimizer.step:UserWarning")
def test_overflows_in_search_of_the_loss_scale_are_not_counted(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, backoff_factor=2.0**-110)
    guard = NonFiniteGuard()
    trainer = make_trainer(callbacks=[guard], limit_val_batches=0, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    module = ImageClassification(tiny)
    trainer.fit(module, datamodule=TinyData())
    assert scaler.get_scale() == 2.0**10  # there was one overflow
    assert guard.skipped == 0
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_the_first_module_with_a_non_finite_output_is_named() -> None:
    class Overflowing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0

    network = nn.Sequential(nn.BatchNorm2d(3), nn.Sequential(nn.Identity(), Overflowing()), nn.ReLU())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert find_non_finite(network, torch.rand(2, 3, 4, 4)) == (
        "student.1.1 is the first module with a non-finite output"
    )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network.get_submodule("0").get_parameter("bias")[0] = torch.nan
    assert find_non_finite(network, torch.rand(2, 3, 4, 4)) == "the parameter student.0.bias holds non-finite values"
    assert find_non_finite(nn.Identity(), torch.rand(1, 3, 4, 4)) is None


def test_the_count_survives_a_resume() -> None:
    guard, other = NonFiniteGuard(), NonFiniteGuard()
    guard.skipped = 7
    other.load_state_dict(guard.state_dict())
    assert other.skipped == 7


def test_an_impossible_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"non_finite\.limit = 0"):
        NonFiniteGuard(limit=0)
