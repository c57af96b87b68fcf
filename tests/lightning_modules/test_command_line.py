"""Runs leave what they promise, can be gone on with and evaluated, and run no code from checkpoints."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_modules import callbacks, command_line
from lightning_modules.cli import main
from mobilemamba.errors import UserError
from tests.lightning_modules.conftest import Failure

ROOT = Path(__file__).parents[2]


def hyperparameters(events: EventAccumulator) -> dict[str, str | float]:
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in options.items()}


NO_PICTURES = [f"--enable.{name}=false" for name in command_line.TENSORBOARD_CALLBACKS]


def test_a_run_can_be_fitted_evaluated_and_used(
    small_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), teacher)
    distilled = ["--model.teacher.name", "test_resnet", "--model.teacher.checkpoint", str(teacher)]
    main(["fit", *small_run, *distilled, "--export.which=[best]"])
    teacher.unlink()  # evaluations do not need it
    run = tmp_path / "all runs" / "small" / "version_0"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}  # of one epoch
    assert {path.name for path in (run / "export").iterdir()} == {"best.onnx", "best.onnx.parity.json"}
    events = EventAccumulator(str(run))
    events.Reload()
    train = {"loss", "loss_task", "loss_distillation", "grad_norm", "teacher_agreement"}
    scalars = {f"train/{name}" for name in train}
    scalars |= {
        f"val/{name}_{kind}" for name in ("top1", "top5", "macro_accuracy", "f1", "loss") for kind in ("raw", "ema")
    }
    scalars |= {"val/top1_teacher", "val/teacher_agreement", "train/lr", "train/images_per_second", "train/data_wait"}
    parts = ("stem", "stages.0", "stages.1", "stages.2", "head")
    scalars |= {f"weight_{kind}/{part}" for kind in ("norm", "gradient_norm") for part in parts}
    assert set(events.Tags()["scalars"]) >= scalars
    pictures = {"val/receptive_field", "train/samples", "val/confusion", "val/class_accuracy", "val_scan/decay_length"}
    assert set(events.Tags()["images"]) == pictures
    texts = {"network/complexity", "run/config", "val/worst_classes", "val/class_results"}
    assert {f"{name}/text_summary" for name in texts} < set(events.Tags()["tensors"])
    (config,) = events.Tensors("run/config/text_summary")
    assert (run / "config.yaml").read_text().strip() in config.tensor_proto.string_val[0].decode()
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert len((run / "class_results.csv").read_text().splitlines()) == 11
    shown = hyperparameters(events)
    assert (shown["data.batch_size"], shown["model.teacher.name"], shown["model.weights"]) == (
        32,
        "test_resnet",
        "none",
    )

    # The commands that were printed work as they are: the saved config alone describes the run.
    summary = capsys.readouterr().out
    assert f"  {run / 'class_results.csv'}\n" in summary
    printed = [shlex.split(line) for line in summary.splitlines() if line.startswith("lightning ")]
    assert [command[1] for command in printed] == ["validate", "test", "predict"]
    assert all(str(run / "checkpoints" / "best.ckpt") in command for command in printed)
    for command, figure in zip(printed, ("val/top1_ema", "test/top1", ""), strict=True):
        main(command[1:])
        shown = capsys.readouterr().out
        assert figure in shown
        assert ("mostly taken for" in shown) == bool(figure)
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360  # the digits that were not trained on
    assert rows[0]["class_1"] in "0123456789"
    # Evaluations are no runs of their own.
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_may_name_its_folder_and_is_resumed_in_it(small_run: list[str], tmp_path: Path, failure: Failure) -> None:
    arguments = ["fit", *small_run, "--run.version=seed_0", "--enable.export=false", *NO_PICTURES]
    main(arguments)
    run = tmp_path / "all runs" / "small" / "seed_0"
    record = json.loads((run / "record.json").read_text())
    assert (record["finished"], record["epochs"], record["steps"]) == (True, 1, 2)
    longer = [*arguments, "--trainer.max_epochs=2"]
    last = run / "checkpoints" / "last.ckpt"
    status, message = failure(longer)
    assert status == 1
    assert "seed_0 holds the checkpoints of a run" in message
    assert str(last) in message
    main([*longer, "--ckpt_path", str(last)])
    assert json.loads((run / "record.json").read_text())["curves"]["epoch"] == [0, 1]
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert [path.name for path in run.parent.iterdir()] == ["seed_0"]


def test_a_fit_whose_export_failed_ends_with_an_error(
    small_run: list[str], monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("differs by 3.0")

    monkeypatch.setattr(callbacks.export, "export_network", refuse)
    with pytest.warns(UserWarning, match="weights were not exported"):
        status, message = failure(["fit", *small_run, *NO_PICTURES])
    assert status == 1
    assert message.endswith("error: not all files were exported; the summary above says why.\n")


def test_the_quickstart_takes_steps_with_its_teacher_and_warns_of_nothing(tmp_path: Path) -> None:
    # The config as it is but for its length, which --trainer.fast_dev_run would change in more ways.
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2"]
    short += ["--run.folder", str(tmp_path)]
    short += ["--trainer.enable_progress_bar", "false", "--enable.export", "false", "--trainer.log_every_n_steps", "1"]
    command = ["-W", "default", "-c", "from lightning_modules.cli import main; main()"]
    shown = subprocess.run(
        [sys.executable, *command, "fit", "--config", "experiments/quickstart.yaml", *short],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    events = EventAccumulator(str(tmp_path / "quickstart" / "version_0"))
    events.Reload()
    assert {"train/loss_distillation", "train/teacher_agreement"} <= set(events.Tags()["scalars"])
    expected = [
        "Seed set",
        "GPU available",
        "The network has",
        "The warm-up of",
        "`Trainer.fit` stopped",
        "Compiling kernels" if find_spec("numba") else "Numba makes training on CPUs faster",
    ]
    assert [line for line in shown.stderr.splitlines() if not any(text in line for text in expected)] == []


def test_callbacks_of_the_user_run_before_the_enabled_ones(
    small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    monkeypatch.setattr(command_line.CommandLine, "fit", lambda self, **_: built.append(self.trainer.callbacks))
    main(["fit", *small_run, "--trainer.callbacks+=LearningRateMonitor", *NO_PICTURES, "--enable.export=false"])
    names = [type(callback).__name__ for callback in built[0]]
    assert names.index("LearningRateMonitor") < names.index("EMA")
    assert not {"ExportAtEnd", "ScanDecays", "PredictionsFile"} & set(names)


def test_an_evaluation_needs_weights(small_run: list[str], failure: Failure) -> None:
    status, message = failure(["validate", *small_run])
    assert status == 1
    assert "--ckpt_path" in message


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("code_was_run",)


@pytest.fixture
def checkpoint_with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "code.ckpt"
    torch.save({"state_dict": Payload()}, path)
    return path


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_a_checkpoint_with_code_in_it_is_refused(
    command: str, small_run: list[str], checkpoint_with_code: Path, failure: Failure
) -> None:
    status, message = failure([command, *small_run, "--ckpt_path", str(checkpoint_with_code)])
    assert status == 1
    assert "code.ckpt is refused" in message
    assert not Path("code_was_run").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_lightning_itself_is_told_to_run_no_code(
    command: str, small_run: list[str], checkpoint_with_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(command_line, "read_file", lambda path: {})  # as if the file had been another one then
    with pytest.raises(SystemExit):
        main([command, *small_run, "--ckpt_path", str(checkpoint_with_code)])
    assert not Path("code_was_run").exists()


def test_code_cannot_be_allowed(small_run: list[str], failure: Failure) -> None:
    status, message = failure(["fit", *small_run, "--weights_only", "false"])
    assert status == 1
    assert "weights_only = false" in message
