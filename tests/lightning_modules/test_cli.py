"""The command line: configs parse, mistakes are one message, and runs leave what they promise."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset

from lightning_modules import callbacks, command_line
from lightning_modules.cli import main, message_for_users
from lightning_modules.losses import DistillationConfig
from mobilemamba.errors import UserError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def no_arguments_of_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lightning warns of arguments given in both ways.
    monkeypatch.setattr(sys, "argv", ["lightning"])


@pytest.fixture
def small_run(tmp_path: Path) -> list[str]:
    """Options of a fit of two steps on the digits."""
    config = {
        "run": {"name": "small", "folder": str(tmp_path / "all runs")},
        "data": {"class_path": "datamodules.DigitsDataModule", "init_args": {"batch_size": 32}},
        "model": {"network": {"widths": [16, 32, 32], "depths": [1, 1, 1]}},
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "limit_train_batches": 2,
            "limit_val_batches": 2,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return ["--config", str(path)]


def printed_config(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Return status and message of a command that must fail."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code, capsys.readouterr().err


def test_a_run_can_be_fitted_evaluated_and_used(
    small_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "teacher.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=10).state_dict(), teacher)
    distilled = ["--model.teacher.name", "test_resnet", "--model.teacher.checkpoint", str(teacher)]
    main(["fit", *small_run, *distilled])
    teacher.unlink()  # evaluations do not need it
    run = tmp_path / "all runs" / "small" / "version_0"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {"best.onnx", "last.onnx"} <= {path.name for path in (run / "export").iterdir()}
    events = EventAccumulator(str(run))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {
        "train/loss",
        "train/loss_task",
        "train/loss_distillation",
        "train/grad_norm",
        "val/top1_raw",
        "val/top5_raw",
        "val/loss_raw",
        "val/top1_ema",
        "val/top5_ema",
        "val/loss_ema",
        "optim/lr",
        "speed/images_per_second",
        "speed/data_wait",
    }
    assert set(events.Tags()["images"]) == {
        "network/receptive_field",
        "train/samples",
        "val/confusion",
        "val/class_accuracy",
        "scan/decay_length",
    }
    texts = {"network/complexity", "run/config", "val/worst_classes"}
    assert {f"{name}/text_summary" for name in texts} < set(events.Tags()["tensors"])
    (config,) = events.Tensors("run/config/text_summary")
    assert (run / "config.yaml").read_text().strip() in config.tensor_proto.string_val[0].decode()
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)

    # The commands that were printed work as they are: the saved config alone describes the run.
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if line.startswith("lightning ")]
    assert [command[1] for command in printed] == ["validate", "test", "predict"]
    assert all(str(run / "checkpoints" / "best.ckpt") in command for command in printed)
    validate, test, predict = (command[1:] for command in printed)
    main(validate)
    assert "val/top1_ema" in capsys.readouterr().out
    main(test)
    assert "test/top1" in capsys.readouterr().out
    main(predict)
    with (run / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360  # the digits that were not trained on
    assert rows[0]["class_1"] in "0123456789"
    # Evaluations are no runs of their own.
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_may_name_its_folder_and_is_resumed_in_it(
    small_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", *small_run, "--run.version", "seed_0", "--enable.export", "false"]
    main(arguments)
    run = tmp_path / "all runs" / "small" / "seed_0"
    record = json.loads((run / "record.json").read_text())
    assert (record["finished"], record["epochs"], record["steps"]) == (True, 1, 2)
    longer = ["--trainer.max_epochs", "2"]
    last = run / "checkpoints" / "last.ckpt"
    status, message = failure([*arguments, *longer], capsys)
    assert status == 1
    assert "seed_0 holds the checkpoints of a run" in message
    assert str(last) in message
    main([*arguments, *longer, "--ckpt_path", str(last)])
    assert json.loads((run / "record.json").read_text())["curves"]["epoch"] == [0, 1]
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_epochs"] == 2
    assert [path.name for path in run.parent.iterdir()] == ["seed_0"]


def test_a_fit_whose_export_failed_ends_with_an_error(
    small_run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise UserError("differs by 3.0")

    monkeypatch.setattr(callbacks.export, "export_network", refuse)
    with pytest.warns(UserWarning, match="weights were not exported"):
        status, message = failure(["fit", *small_run], capsys)
    assert status == 1
    assert message.endswith("error: not all files were exported; the summary above says why.\n")


def test_defaults_are_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed_config(["fit", "--config", str(EXPERIMENTS / "s6.yaml"), "--data.root", "elsewhere"], capsys)
    assert config["data"]["class_path"] == "datamodules.ImageNetDataModule"
    assert config["data"]["init_args"]["root"] == "elsewhere"
    assert config["model"]["network"]["widths"] == [192, 384, 448]
    assert config["model"]["teacher"]["name"] == "tresnet_v2_l.miil_in21k_ft_in1k"
    distillation = config["model"]["distillation"]
    assert (distillation["kind"], distillation["temperature"]) == ("soft", 1.0)
    assert DistillationConfig(**distillation).weights == (1.0, 5.0)
    trainer = config["trainer"]
    assert (trainer["max_epochs"], trainer["gradient_clip_val"], trainer["precision"]) == (1000, 5.0, "16-mixed")
    assert config["ema"]["decay"] == 0.9998
    assert config["seed_everything"] == 0


def test_the_quickstart_takes_steps_with_its_teacher_and_makes_no_noise(tmp_path: Path) -> None:
    # The config as it is but for its length, which --trainer.fast_dev_run would change in more ways.
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--run.folder", str(tmp_path)]
    short += ["--trainer.enable_progress_bar", "false", "--enable.export", "false"]
    short += ["--trainer.log_every_n_steps", "1"]
    command = ["-W", "default", "-c", "from lightning_modules.cli import main; main()"]
    shown = subprocess.run(
        [sys.executable, *command, "fit", "--config", "experiments/quickstart.yaml", *short],
        cwd=EXPERIMENTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    events = EventAccumulator(str(tmp_path / "quickstart" / "version_0"))
    events.Reload()
    assert {"train/loss_distillation", "train/teacher_agreement"} <= set(events.Tags()["scalars"])
    expected = ("Seed set", "GPU available", "The network has", "The warm-up of", "`Trainer.fit` stopped")
    assert [line for line in shown.stderr.splitlines() if not any(text in line for text in expected)] == []


@pytest.mark.parametrize(
    ("option", "value"), [("--model.network.width", "[1]"), ("--ema.decays", "0.9"), ("--data.rooot", "x")]
)
def test_unknown_keys_are_errors(
    small_run: list[str], option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = failure(["fit", *small_run, option, value], capsys)
    assert status == 2
    assert option.split(".")[-1] in message


def test_options_of_other_data_are_refused_in_few_words(
    small_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = failure(["fit", *small_run, "--data.root", "x"], capsys)
    assert status == 2
    assert "DigitsDataModule':\n    Option 'root' is not accepted" in message
    assert message.count("\n") == 5


@pytest.mark.parametrize("options", [[], ["--data.root", "x"]])
def test_data_must_be_named(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, message = failure(["fit", *options], capsys)
    assert status == 2
    assert "error: no data are named: " in message
    assert "--config experiments/quickstart.yaml" in message


def test_impossible_values_name_their_field(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, message = failure(["fit", *small_run, "--model.network.stem_stride", "3"], capsys)
    assert status == 2
    assert "stem_stride" in message


def test_missing_data_are_one_message_before_any_long_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object) -> None:
        raise AssertionError("The data are to be found first.")

    monkeypatch.setattr("lightning_modules.classification.build_teacher", download)
    arguments = ["fit", "--config", str(EXPERIMENTS / "s6.yaml"), "--data.root", str(tmp_path / "nowhere")]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.precision", "32", "--run.folder", str(tmp_path)]
    status, message = failure(arguments, capsys)
    assert status == 1
    assert re.search(r"nowhere/train/<class>/.*nowhere/val/<class>/", message)
    assert "experiments/quickstart.yaml" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Raised while the parser builds the parts, by the trainer and a loop of it, and by the system.
        (["--data.batch_size", "0"], "error: data.batch_size = 0 must be 1 or more.\n"),
        (["--trainer.accelerator", "none"], "You selected an invalid accelerator"),
        (["--trainer.limit_train_batches", "0.001"], "error: You requested to check 0.001 of the `train_dataloader`"),
        (["--run.folder", __file__], "error: [Errno 20] Not a directory"),
    ],
)
def test_mistakes_in_options_are_one_message(
    options: list[str], expected: str, small_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = failure(["fit", *small_run, *options], capsys)
    assert status == 1
    assert expected in message
    assert "Traceback" not in message


def test_callbacks_of_the_user_run_and_an_unknown_metric_is_named(
    small_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/top1_rav"]
    status, message = failure(["fit", *small_run, *options], capsys)
    assert status == 1
    assert "EarlyStopping.monitor = 'val/top1_rav' must be a metric that is logged, such as 'val/top1_raw'" in message
    assert "Traceback" not in message


def test_a_fault_beside_early_stopping_stays_a_fault(small_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault in a step")

    monkeypatch.setattr("lightning_modules.classification.ImageClassification.training_step", broken)
    options = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/top1_raw"]
    with pytest.raises(RuntimeError, match="a fault in a step"):
        main(["fit", *small_run, *options])


def test_an_evaluation_needs_weights(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, message = failure(["validate", *small_run], capsys)
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
    command: str, small_run: list[str], checkpoint_with_code: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, message = failure([command, *small_run, "--ckpt_path", str(checkpoint_with_code)], capsys)
    assert status == 1
    assert "code.ckpt is refused" in message
    assert not Path("code_was_run").exists()


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_lightning_itself_is_told_to_run_no_code(
    command: str, small_run: list[str], checkpoint_with_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setattr(command_line, "read_file", lambda path: {})  # as if the file had been another one then
    with pytest.raises(pickle.UnpicklingError):
        main([command, *small_run, "--ckpt_path", str(checkpoint_with_code)])
    assert not Path("code_was_run").exists()


def test_code_cannot_be_allowed(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, message = failure(["fit", *small_run, "--weights_only", "false"], capsys)
    assert status == 1
    assert "weights_only = false" in message


def test_faults_in_code_are_not_for_users() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("not a number")
    assert message_for_users(caught.value) is None
    assert message_for_users(KeyError("a fault")) is None


class Unreadable(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise UserError("Image a.jpg cannot be read (OSError: truncated): replace it.")


def test_errors_of_loader_processes_are_told_without_their_traceback() -> None:
    with pytest.raises(UserError, match="Traceback") as caught:
        next(iter(DataLoader(Unreadable(), num_workers=1)))
    assert message_for_users(caught.value) == "Image a.jpg cannot be read (OSError: truncated): replace it."


def test_ctrl_c_before_training_is_no_traceback(
    small_run: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line.CommandLine, "before_instantiate_classes", interrupt)
    status, message = failure(["fit", *small_run], capsys)
    assert status == 130
    assert message.endswith("interrupted\n")


def test_help_needs_no_long_imports() -> None:
    script = "import sys; from lightning_modules.cli import main; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
