"""The record of a run goes on over resumes; ``test_run_end`` reads that of a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.callbacks import LastCheckpoint, RunRecording
from lightning_modules.callbacks.run_recording import add_point
from lightning_modules.classification import ImageClassification
from lightning_modules.run_record import RunRecord
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.small_runs import Watch, recorded, run_folder
from tests.lightning_modules.tiny_data import TinyData

Fit = Callable[..., None]


@pytest.fixture
def fit(logged: Callable[..., Trainer], tiny: MobileMambaConfig) -> Fit:
    def run(*callbacks: Callback, ckpt_path: Path | None = None, **options: Any) -> None:
        trainer = logged(callbacks=list(callbacks), enable_checkpointing=True, **options)
        trainer.fit(ImageClassification(tiny), datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)

    return run


class Stop(Callback):
    """Fail in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("stopped")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_goes_on_with_its_record(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        fit(RunRecording(), LastCheckpoint(), Stop(epoch=1), max_epochs=3)
    before = recorded(tmp_path)
    assert (before["finished"], before["epochs"]) == (False, 1)

    class HoursLater(RunRecording):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            assert before["seconds"] <= state_dict["seconds"] < before["seconds"] + 5
            super().load_state_dict(state_dict | {"seconds": 7200.0, "peak_memory_bytes": 10**15})

        @property
        def state_key(self) -> str:
            return RunRecording().state_key

    path = run_folder(tmp_path) / "checkpoints" / "last.ckpt"
    fit(HoursLater(), LastCheckpoint(), ckpt_path=path, max_epochs=3)
    after = recorded(tmp_path)
    assert (after["finished"], after["epochs"], after["steps"]) == (True, 3, 9)
    assert after["curves"]["epoch"] == [0, 1, 2]
    assert after["curves"]["val/top1_raw"][0] == before["curves"]["val/top1_raw"][0]
    assert 7200 < after["seconds"] < 7300
    assert after["peak_memory_bytes"] == 10**15

    # There is nothing left to train.
    fit(RunRecording(), LastCheckpoint(), ckpt_path=path, max_epochs=3)
    again = recorded(tmp_path)
    assert again.pop("seconds") <= after.pop("seconds")
    assert again == after
    assert (again["validation_images"], len(again["metrics"])) == (24, 4)


class Spoil(Callback):
    """Hand on a loss that is not finite."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            outputs["loss"] = outputs["loss"] * float("nan")


class SaveAndStop(Callback):
    """Write a checkpoint after the first epoch, before any validation, and fail."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)
        raise RuntimeError("stopped")


def test_the_training_loss_is_the_mean_of_all_finite_ones_before_and_after_a_resume(fit: Fit, tmp_path: Path) -> None:
    options = {"max_epochs": 2, "check_val_every_n_epoch": 2}
    before, after, path = Watch(tmp_path), Watch(tmp_path), tmp_path / "early.ckpt"
    with pytest.raises(RuntimeError, match="stopped"):
        fit(Spoil(step=2), RunRecording(), before, SaveAndStop(path), **options)
    fit(RunRecording(), after, ckpt_path=path, **options)
    losses = [before.losses[0], before.losses[2], *after.losses]
    assert len(losses) == 5
    assert recorded(tmp_path)["curves"]["train/loss"] == pytest.approx([sum(losses) / 5], rel=1e-5)


def test_a_trial_run_leaves_no_record(fit: Fit, tmp_path: Path) -> None:
    fit(RunRecording(), fast_dev_run=True)
    assert not list(tmp_path.rglob("record.json"))


def test_curves_stay_equally_long() -> None:
    curves: dict[str, list[float | None]] = {"epoch": [0.0], "train/loss": [2.0], "val/top1_ema": [0.5]}
    add_point(curves, {"epoch": 1, "train/loss": float("nan"), "val/top1_raw": 0.25})
    assert curves == {
        "epoch": [0.0, 1],
        "train/loss": [2.0, None],
        "val/top1_ema": [0.5, None],
        "val/top1_raw": [None, 0.25],
    }


def test_a_record_without_the_number_of_images_is_read(tmp_path: Path) -> None:
    RunRecord(True, 1, 1.0, 10, "A CPU", 1, "process", {}, {}, 1, 1, 8).write(tmp_path)
    path = tmp_path / "record.json"
    content = json.loads(path.read_text())
    del content["validation_images"]
    path.write_text(json.dumps(content))
    record = RunRecord.read(tmp_path)
    assert record is not None
    assert record.validation_images is None


def test_older_checkpoints_name_the_callback_by_its_first_name() -> None:
    assert RunRecording().state_key == "RunRecord"
