"""Mistakes of users are one line, and faults in code keep their traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from lightning_modules.cli import main, message_for_users
from lightning_modules.command_line import TENSORBOARD_CALLBACKS, CommandLine
from mobilemamba.errors import UserError
from tests.lightning_modules.conftest import Failure

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
STOPPING = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/top1"]
NO_PICTURES = [f"--enable.{name}=false" for name in TENSORBOARD_CALLBACKS]
UNUSABLE = "The trainer's options cannot be used: "


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--model.network.width", "[1]", "width"),
        ("--ema.decays", "0.9", "decays"),
        ("--enable.emaa", "false", "emaa"),
        ("--trainer.max_epoch", "1", "max_epoch"),  # no abbreviations
        ("--data.root", "x", "DigitsDataModule': Option 'root' is not accepted"),
        ("--model.network.stem_stride", "3", "stem_stride"),
        ("--trainer.precision", "17", "Given value: 17"),
    ],
)
def test_options_that_cannot_be_parsed_are_one_line(
    option: str, value: str, expected: str, small_run: list[str], failure: Failure
) -> None:
    status, message = failure(["fit", *small_run, option, value])
    assert status == 2
    *_, line = message.splitlines()
    assert line.startswith("error: ")
    assert expected in line


@pytest.mark.parametrize("options", [[], ["--data.root", "x"]])
def test_data_must_be_named(options: list[str], failure: Failure) -> None:
    status, message = failure(["fit", *options])
    assert status == 2
    assert "error: no data are named: " in message
    assert "--config experiments/quickstart.yaml" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Raised while the parser builds the parts, by the trainer, its loops and its callbacks, and by the system.
        (["--data.batch_size", "0"], "data.batch_size = 0 must be 1 or more."),
        ([*STOPPING, "--trainer.callbacks.mode=up"], "`mode` can be min, max, got up"),
        (["--trainer.accelerator", "nonsense"], f"{UNUSABLE}You selected an invalid accelerator name"),
        (["--trainer.devices", "none"], f"{UNUSABLE}`devices` selected with `CPUAccelerator`"),
        (["--trainer.devices", "9999"], "trainer.devices = 9999 must be at most "),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches = 0 must be 1 or more."),
        (["--trainer.limit_train_batches", "0.001"], "You requested to check 0.001 of the `train_dataloader`"),
        (["--trainer.val_check_interval", "99"], "`val_check_interval` (99) must be less than or equal to"),
        (STOPPING, "EarlyStopping.monitor = 'val/top1' must be a logged metric, such as 'val/top1_raw'; there are "),
        (["--best_checkpoint.monitor", "loss"], "BestCheckpoint.monitor = 'loss' must be a logged metric, such as "),
        (["--run.folder", __file__], "[Errno 20] Not a directory"),
    ],
)
def test_mistakes_in_options_are_one_line(
    options: list[str], expected: str, small_run: list[str], failure: Failure
) -> None:
    status, message = failure(["fit", *small_run, *options, *NO_PICTURES])
    assert status == 1
    *_, line = message.splitlines()
    assert line.startswith(f"error: {expected}")
    assert "Traceback" not in message


def test_a_refused_fit_leaves_no_folder(small_run: list[str], tmp_path: Path, failure: Failure) -> None:
    arguments = ["fit", *small_run, "--model.teacher.checkpoint", str(tmp_path / "none.ckpt")]
    status, message = failure(arguments)
    assert status == 1
    assert "none.ckpt does not exist" in message
    assert not (tmp_path / "all runs").exists()
    other = tmp_path / "all runs" / "small" / "version_0" / "of another run"
    other.mkdir(parents=True)
    assert failure(arguments)[0] == 1
    assert [path.name for path in other.parent.parent.iterdir()] == ["version_0"]
    # A folder that was there is left alone.
    assert failure([*arguments, "--run.version=version_0"])[0] == 1
    assert other.is_dir()


def test_missing_data_are_one_line_before_any_long_work(
    failure: Failure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object) -> None:
        raise AssertionError("The data are to be found first.")

    monkeypatch.setattr("lightning_modules.classification.build_teacher", download)
    arguments = ["fit", "--config", str(EXPERIMENTS / "s6.yaml"), "--data.root", str(tmp_path / "nowhere")]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.precision", "32", "--run.folder", str(tmp_path)]
    status, message = failure(arguments)
    assert status == 1
    *_, line = message.splitlines()
    for part in ("nowhere/train/<class>/", "nowhere/val/<class>/", "experiments/quickstart.yaml"):
        assert part in line


def test_a_fault_while_training_keeps_its_traceback(small_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes differ")

    # Nothing has been logged yet, the metric of early stopping neither.
    monkeypatch.setattr("lightning_modules.classification.ImageClassification.training_step", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["fit", *small_run, *STOPPING, *NO_PICTURES])


def test_faults_in_code_are_not_for_users() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("not a number")
    assert message_for_users(caught.value) is None
    assert message_for_users(KeyError("a fault")) is None
    assert message_for_users(UserError("two\nlines")) == "two lines"


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
    small_run: list[str], monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CommandLine, "before_instantiate_classes", interrupt)
    status, message = failure(["fit", *small_run])
    assert status == 130
    assert message.endswith("interrupted\n")


def test_the_command_starts_without_long_imports() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "lightning_modules.cli", "--nonsense"], capture_output=True, text=True
    )
    assert shown.returncode == 2
    assert "usage: " in shown.stderr
    script = "import sys; from lightning_modules.cli import main; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
