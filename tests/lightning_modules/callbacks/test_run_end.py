"""The end of a run: checkpoints and record kept, files exported or honestly reported as failed, all of it listed."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn

from lightning_modules.callbacks import (
    EMA,
    BestCheckpoint,
    ExportAtEnd,
    LastCheckpoint,
    RunRecording,
    RunSummary,
    export,
    run_summary,
)
from lightning_modules.callbacks.export import ExportResult
from lightning_modules.callbacks.run_summary import activation, stop_progress_bar
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMamba, MobileMambaConfig, load_network
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, ParityReport, formats
from tests.lightning_modules.small_runs import Watch, logged_trainer, recorded, run_folder
from tests.lightning_modules.tiny_data import TINY, TinyData

MakeTrainer = Callable[..., Trainer]
NETWORK = replace(TINY, mixer_stages=(False, True, False))  # exported in a few seconds


@dataclass
class Run:
    """A run of two epochs of three batches."""

    averaging: bool
    accumulated: int
    seconds: float
    folder: Path
    trainer: Trainer
    watch: Watch
    best: BestCheckpoint
    printed: str


@pytest.fixture(scope="module", params=[(True, 1), (False, 3)], ids=["averaged", "raw and accumulated"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    averaging, accumulated = request.param
    folder = tmp_path_factory.mktemp("end")
    watch, best = Watch(folder), BestCheckpoint()
    callbacks = [*([EMA()] if averaging else []), RunRecording(), watch, best, LastCheckpoint()]
    trainer = logged_trainer(
        folder,
        callbacks=[*callbacks, *([ExportAtEnd()] if averaging else []), RunSummary()],
        enable_checkpointing=True,
        max_epochs=2,
        accumulate_grad_batches=accumulated,
    )
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        trainer.fit(ImageClassification(NETWORK), datamodule=TinyData())
    took = time.perf_counter() - begun
    return Run(averaging, accumulated, took, run_folder(folder), trainer, watch, best, printed.getvalue())


def test_best_and_last_are_kept_under_fixed_names(run: Run) -> None:
    folder = run.folder / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt", "last.previous.ckpt"]
    assert run.best.monitor == ("val/top1_ema" if run.averaging else "val/top1_raw")
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load(folder / "last.previous.ckpt", weights_only=True)["epoch"] == 0


def test_files_are_exported_and_listed(run: Run) -> None:
    files = {path.name for path in run.folder.glob("export/*")}
    expected = {"best.onnx", "best.onnx.parity.json", "last.onnx", "last.onnx.parity.json"} if run.averaging else set()
    assert files == expected
    for text in (*expected, "best.ckpt", "last.ckpt", "tensorboard --logdir", "top-1"):
        assert text in run.printed
    # Whole paths, to be copied: the folder has more characters than are left of a terminal's line.
    assert f"{run.folder / 'checkpoints' / 'best.ckpt'} (" in run.printed
    assert {path.name for path in run.folder.glob(".*")} == set()


def test_the_record_says_what_was_reached(run: Run) -> None:
    record, watched = recorded(run.folder.parent.parent), run.watch.records
    assert [(r["finished"], r["epochs"], r["steps"]) for r in (*watched, record)] == [
        (False, 1, 3 // run.accumulated),
        (False, 2, 6 // run.accumulated),
        (True, 2, 6 // run.accumulated),
    ]
    assert 0 < watched[0]["seconds"] < watched[1]["seconds"] <= record["seconds"] < run.seconds
    assert (record["num_classes"], record["validation_images"]) == (4, 24)
    assert record["parameters"] == sum(parameter.numel() for parameter in MobileMamba(NETWORK).parameters())
    assert record["device"]
    assert record["peak_memory_of"] == "process"
    assert 5e7 < record["peak_memory_bytes"] < 1e11
    kinds = ("raw", "ema") if run.averaging else ("raw",)
    assert set(record["metrics"]) == {
        f"val/{name}_{kind}" for name in ("top1", "macro_accuracy", "f1", "loss") for kind in kinds
    }
    for name, value in record["metrics"].items():
        assert value == pytest.approx(float(run.trainer.callback_metrics[name]))
        assert record["curves"][name] == [r["metrics"][name] for r in watched]
    assert record["curves"]["epoch"] == [0, 1]
    means = [sum(run.watch.losses[:3]) / 3, sum(run.watch.losses[3:]) / 3]
    assert record["curves"]["train/loss"] == pytest.approx(means, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("same_folder", [True, False])
def test_a_resumed_run_compares_with_the_best_of_its_own_folder(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, same_folder: bool
) -> None:
    def fit(folder: Path, max_epochs: int, ckpt_path: Path | None = None) -> BestCheckpoint:
        best = BestCheckpoint(dirpath=str(folder))
        callbacks = [best, LastCheckpoint(dirpath=str(folder))]
        trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, max_epochs=max_epochs)
        trainer.fit(ImageClassification(tiny), datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)
        return best

    fit(tmp_path / "first", 1)
    path = tmp_path / "first" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    for key, state in content["callbacks"].items():
        if key.startswith("BestCheckpoint"):
            state["best_model_score"] = torch.tensor(2.0)  # which no epoch can reach
    torch.save(content, path)
    best = fit(tmp_path / ("first" if same_folder else "second"), 2, path)
    assert best.best_model_score is not None
    assert (best.best_model_score == 2) == same_folder
    assert (tmp_path / "second" / "best.ckpt").is_file() == (not same_folder)


class Worse(Callback):
    """A metric by which the first epoch is the best."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/worse", -float(trainer.current_epoch))


@pytest.mark.parametrize("weights", [None, "raw"])
def test_the_weights_that_were_asked_for_are_exported(
    logged: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Any
) -> None:
    exported: dict[str, dict[str, Tensor]] = {}

    def keep(network: nn.Module, path: Path, *_: object) -> None:
        assert not network.training
        exported[path.stem] = network.state_dict()

    monkeypatch.setattr(export, "export_network", keep)
    callbacks = [EMA(decay=0.5), Worse(), BestCheckpoint(monitor="val/worse"), LastCheckpoint()]
    trainer = logged(callbacks=[*callbacks, ExportAtEnd(weights=weights)], enable_checkpointing=True, max_epochs=2)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert exported.keys() == {"best", "last"}
    for name, state in exported.items():
        for kind in ("ema", "raw"):
            checkpoint = run_folder(tmp_path) / "checkpoints" / f"{name}.ckpt"
            network, _ = load_network(checkpoint, kind)  # type: ignore[arg-type]
            same = all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
            assert same == (kind == (weights or "ema"))
    assert any(not torch.equal(value, exported["last"][key]) for key, value in exported["best"].items())


def test_the_summary_is_printed_below_the_progress_bar(
    logged: MakeTrainer, tiny: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    trainer = logged(callbacks=[Looks(), RunSummary()], limit_val_batches=0, enable_progress_bar=True)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert capsys.readouterr().out.startswith("the bar ends\nThis run")


def test_commands_are_preceded_by_what_makes_them_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "an environment" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").touch()
    (programs / "lightning").touch(0o755)
    monkeypatch.setattr("sys.prefix", str(programs.parent))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert activation() == [f"source '{programs / 'activate'}'"]
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin")
    assert activation() == []


def test_a_failed_export_is_reported_and_the_run_goes_on(
    logged: MakeTrainer, tiny: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("differs by 3.0")

    monkeypatch.setattr(export, "export_network", refuse)
    exporting = ExportAtEnd(which=("last",))
    trainer = logged(callbacks=[exporting, RunSummary()], limit_train_batches=1, limit_val_batches=0)
    with pytest.warns(UserWarning, match="last weights were not exported: differs by 3.0"):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert exporting.results[0].error == "differs by 3.0"
    assert "FAILED: differs by 3.0" in capsys.readouterr().out


def test_an_export_without_comparison_is_listed_as_such() -> None:
    exporting = ExportAtEnd()
    exporting.results = [ExportResult("last", Path("last"), report=ParityReport("coreml", 1e-15, 1e-4, (), {}, 1))]
    assert "CONVERTED, NOT RUN" in exporting.summary_lines()[0][1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": f"{__file__}/export"}, "export cannot be written"),
        ({"options": ExportOptions(format="openvino")}, r"\.\[openvino\]"),
        ({"weights": "ema"}, r"export\.weights = 'ema' .* enable\.ema"),
    ],
)
def test_an_export_that_is_not_possible_is_found_before_training(
    logged: MakeTrainer, tiny: MobileMambaConfig, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "openvino" else name)
    trainer = logged(callbacks=[ExportAtEnd(**options)])
    with pytest.raises(UserError, match=message):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert trainer.global_step == 0
