"""The end of a run: checkpoints kept, files exported or honestly reported as failed, all of it listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_modules.callbacks import (
    EMA,
    BestCheckpoint,
    ExportAtEnd,
    LastCheckpoint,
    RunSummary,
    export,
    run_summary,
)
from lightning_modules.callbacks.next_steps import stop_progress_bar
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig, load_training_checkpoint
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, ParityReport, formats
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def run_trainer(make_trainer: MakeTrainer, tmp_path: Path) -> MakeTrainer:
    def make(callbacks: list[Any], **options: Any) -> Trainer:
        logger = TensorBoardLogger(tmp_path, name="run", version=0, default_hp_metric=False)
        return make_trainer(callbacks=callbacks, logger=logger, enable_checkpointing=True, **options)

    return make


@pytest.mark.parametrize("averaging", [True, False])
def test_best_and_last_are_kept_under_fixed_names(
    run_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, averaging: bool
) -> None:
    best, last = BestCheckpoint(), LastCheckpoint()
    trainer = run_trainer([best, last, *([EMA()] if averaging else [])], max_epochs=3)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert best.monitor == ("val/top1_ema" if averaging else "val/top1_raw")
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("same_folder", [True, False])
def test_a_resumed_run_compares_with_the_best_of_its_own_folder(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, same_folder: bool
) -> None:
    def run(folder: Path, max_epochs: int, ckpt_path: Path | None = None) -> BestCheckpoint:
        best = BestCheckpoint(dirpath=str(folder))
        callbacks = [best, LastCheckpoint(dirpath=str(folder))]
        trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, max_epochs=max_epochs)
        trainer.fit(ImageClassification(tiny), datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)
        return best

    run(tmp_path / "first", 1)
    path = tmp_path / "first" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    for key, state in content["callbacks"].items():
        if key.startswith("BestCheckpoint"):
            state["best_model_score"] = torch.tensor(2.0)  # which no epoch can reach
    torch.save(content, path)
    best = run(tmp_path / ("first" if same_folder else "second"), 2, path)
    assert best.best_model_score is not None
    assert (best.best_model_score == 2) == same_folder
    assert (tmp_path / "second" / "best.ckpt").is_file() == (not same_folder)


def test_a_run_ends_with_files_and_a_summary(
    run_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exporting = ExportAtEnd()
    trainer = run_trainer([EMA(), BestCheckpoint(), LastCheckpoint(), exporting, RunSummary()])
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert [(result.name, result.error) for result in exporting.results] == [("best", None), ("last", None)]
    files = {path.name for path in (tmp_path / "run" / "version_0" / "export").iterdir()}
    assert files == {"best.onnx", "best.onnx.parity.json", "last.onnx", "last.onnx.parity.json"}
    printed = "".join(capsys.readouterr().out.split())
    for expected in ("best.ckpt", "last.ckpt", "best.onnx", "last.onnx.parity.json", "tensorboard--logdir", "top-1"):
        assert expected in printed


class Worse(Callback):
    """A metric by which the first epoch is the best."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/worse", -float(trainer.current_epoch))


@pytest.mark.parametrize("weights", [None, "raw"])
def test_the_weights_that_were_asked_for_are_exported(
    run_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Any
) -> None:
    exported: dict[str, dict[str, Tensor]] = {}

    def record(network: nn.Module, path: Path, *_: object) -> None:
        assert not network.training
        exported[path.stem] = network.state_dict()

    monkeypatch.setattr(export, "export_network", record)
    keeping = [BestCheckpoint(monitor="val/worse"), LastCheckpoint()]
    trainer = run_trainer([EMA(decay=0.5), Worse(), *keeping, ExportAtEnd(weights=weights)], max_epochs=2)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert exported.keys() == {"best", "last"}
    folder = tmp_path / "run" / "version_0" / "checkpoints"
    for name, state in exported.items():
        for kind in ("ema", "raw"):
            network, _ = load_training_checkpoint(folder / f"{name}.ckpt", kind)  # type: ignore[arg-type]
            same = all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
            assert same == (kind == (weights or "ema"))
    assert any(not torch.equal(value, exported["last"][key]) for key, value in exported["best"].items())


def test_the_summary_is_printed_below_the_progress_bar(
    run_trainer: MakeTrainer,
    tiny: MobileMambaConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Looks(Callback):
        def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            bar = trainer.progress_bar_callback
            assert isinstance(bar, RichProgressBar)
            assert bar.progress is not None
            assert bar.progress.live.is_started
            stop_progress_bar(trainer)
            assert not bar.progress.live.is_started
            capsys.readouterr()

    monkeypatch.setattr(run_summary, "stop_progress_bar", lambda trainer: print("the bar ends"))
    trainer = run_trainer([Looks(), RunSummary()], limit_val_batches=0, enable_progress_bar=True)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert capsys.readouterr().out.startswith("the bar ends\nThis run")


def test_a_failed_export_is_reported_and_the_run_goes_on(
    run_trainer: MakeTrainer,
    tiny: MobileMambaConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("differs by 3.0")

    monkeypatch.setattr(export, "export_network", refuse)
    exporting = ExportAtEnd(which=("last",))
    trainer = run_trainer([exporting, RunSummary()], limit_train_batches=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match="last weights were not exported: differs by 3.0"):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert exporting.results[0].error == "differs by 3.0"
    assert "FAILED: differs by 3.0" in capsys.readouterr().out


def test_an_export_without_comparison_is_listed_as_such(
    run_trainer: MakeTrainer,
    tiny: MobileMambaConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = ParityReport("coreml", 1e-15, 1e-4, (), {}, 1)
    monkeypatch.setattr(export, "export_network", lambda *_: report)
    trainer = run_trainer([ExportAtEnd(which=("last",)), RunSummary()], limit_train_batches=1, limit_val_batches=0)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert "CONVERTED, NOT RUN" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_found_before_training(
    run_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    trainer = run_trainer([ExportAtEnd(folder=str(tmp_path / "file" / "export"))])
    with pytest.raises(UserError, match=r"file.export cannot be written"):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert trainer.global_step == 0


def test_a_format_that_is_not_installed_is_found_before_training(
    run_trainer: MakeTrainer, tiny: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda _: None)
    trainer = run_trainer([ExportAtEnd(options=ExportOptions(format="openvino"))])
    with pytest.raises(UserError, match=r"\.\[openvino\]"):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert trainer.global_step == 0
