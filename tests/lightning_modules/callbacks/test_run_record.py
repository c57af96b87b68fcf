"""The record of a run: written after every validation, finished only at the end, and continued over a resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from lightning_modules.callbacks import EMA, LastCheckpoint, RunRecording
from lightning_modules.callbacks.run_recording import add_point
from lightning_modules.classification import ImageClassification
from lightning_modules.run_record import RunRecord
from mobilemamba import MobileMamba, MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData

Make = Callable[..., Trainer]


@pytest.fixture
def run_trainer(make_trainer: Make, tmp_path: Path) -> Make:
    def make(callbacks: list[Any], **options: Any) -> Trainer:
        logger = TensorBoardLogger(tmp_path, name="run", version=0, default_hp_metric=False)
        return make_trainer(callbacks=callbacks, logger=logger, enable_checkpointing=True, **options)

    return make


def read(tmp_path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((tmp_path / "run" / "version_0" / "record.json").read_text())
    return record


class Watch(Callback):
    """Keep the record as it is after every validation, and the losses of all steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: list[dict[str, Any]] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train/loss"]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.records.append(read(self.folder))


class Stop(Callback):
    """Fail in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_record_says_what_was_reached(
    run_trainer: Make, tiny: MobileMambaConfig, tmp_path: Path, accumulate: int
) -> None:
    watch = Watch(tmp_path)
    options = {"max_epochs": 2, "accumulate_grad_batches": accumulate, "num_sanity_val_steps": 1}
    trainer = run_trainer([EMA(), RunRecording(), watch], **options)
    begun = time.perf_counter()
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    took = time.perf_counter() - begun
    record = read(tmp_path)
    assert [(r["finished"], r["epochs"], r["steps"]) for r in (*watch.records, record)] == [
        (False, 1, 3 // accumulate),
        (False, 2, 6 // accumulate),
        (True, 2, 6 // accumulate),
    ]
    assert 0 < watch.records[0]["seconds"] < watch.records[1]["seconds"] <= record["seconds"] < took
    assert (record["num_classes"], record["validation_images"]) == (4, 24)
    assert record["parameters"] == sum(parameter.numel() for parameter in MobileMamba(tiny).parameters())
    assert record["device"]
    assert record["peak_memory_of"] == "process"
    assert 5e7 < record["peak_memory_bytes"] < 1e11
    assert set(record["metrics"]) == {
        f"val/{name}_{kind}" for name in ("top1", "macro_accuracy", "f1", "loss") for kind in ("raw", "ema")
    }
    for name, value in record["metrics"].items():
        assert value == pytest.approx(float(trainer.callback_metrics[name]))
        assert record["curves"][name] == [r["metrics"][name] for r in watch.records]
    assert record["curves"]["epoch"] == [0, 1]
    means = [sum(watch.losses[:3]) / 3, sum(watch.losses[3:]) / 3]
    assert record["curves"]["train/loss"] == pytest.approx(means, rel=1e-5)
    assert [path.name for path in (tmp_path / "run" / "version_0").glob(".*")] == []


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_goes_on_with_its_record(
    run_trainer: Make, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        run_trainer([RunRecording(), LastCheckpoint(), Stop(epoch=1)], max_epochs=3).fit(
            ImageClassification(tiny), datamodule=TinyData()
        )
    before = read(tmp_path)
    assert (before["finished"], before["epochs"]) == (False, 1)

    class HoursLater(RunRecording):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            assert before["seconds"] <= state_dict["seconds"] < before["seconds"] + 5
            super().load_state_dict(state_dict | {"seconds": 7200.0, "peak_memory_bytes": 10**15})

        @property
        def state_key(self) -> str:
            return RunRecording().state_key

    path = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    run_trainer([HoursLater(), LastCheckpoint()], max_epochs=3).fit(
        ImageClassification(tiny), datamodule=TinyData(), ckpt_path=path, weights_only=True
    )
    record = read(tmp_path)
    assert (record["finished"], record["epochs"], record["steps"]) == (True, 3, 9)
    assert record["curves"]["epoch"] == [0, 1, 2]
    assert record["curves"]["val/top1_raw"][0] == before["curves"]["val/top1_raw"][0]
    assert 7200 < record["seconds"] < 7300
    assert record["peak_memory_bytes"] == 10**15


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_resumed_after_its_last_epoch_keeps_its_record(
    run_trainer: Make, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    run_trainer([RunRecording(), LastCheckpoint()], max_epochs=2).fit(ImageClassification(tiny), datamodule=TinyData())
    before = read(tmp_path)
    path = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    run_trainer([RunRecording(), LastCheckpoint()], max_epochs=2).fit(
        ImageClassification(tiny), datamodule=TinyData(), ckpt_path=path, weights_only=True
    )
    after = read(tmp_path)
    assert (after["epochs"], after["validation_images"], len(after["metrics"])) == (2, 24, 3)
    timed = ("seconds", "peak_memory_bytes")
    assert {k: v for k, v in after.items() if k not in timed} == {k: v for k, v in before.items() if k not in timed}
    assert after["seconds"] <= before["seconds"]


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


def test_the_training_loss_is_the_mean_of_all_finite_ones_before_and_after_a_resume(
    run_trainer: Make, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    options = {"max_epochs": 2, "check_val_every_n_epoch": 2}
    before, after = Watch(tmp_path), Watch(tmp_path)
    path = tmp_path / "early.ckpt"
    with pytest.raises(RuntimeError, match="stopped"):
        run_trainer([Spoil(step=2), RunRecording(), before, SaveAndStop(path)], **options).fit(
            ImageClassification(tiny), datamodule=TinyData()
        )
    run_trainer([RunRecording(), after], **options).fit(
        ImageClassification(tiny), datamodule=TinyData(), ckpt_path=path, weights_only=True
    )
    losses = [before.losses[0], before.losses[2], *after.losses]
    assert len(losses) == 5
    assert read(tmp_path)["curves"]["train/loss"] == pytest.approx([sum(losses) / 5], rel=1e-5)


def test_a_trial_run_leaves_no_record(make_trainer: Make, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    make_trainer(callbacks=[RunRecording()], fast_dev_run=True).fit(ImageClassification(tiny), datamodule=TinyData())
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
