"""A small network and a small, learnable data set that every test of this folder can train on."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from lightning_modules.cli import main
from mobilemamba import MobileMambaConfig
from tests.lightning_modules.small_runs import quiet_trainer
from tests.lightning_modules.tiny_data import TINY, TinyData

# What processes that are started by a test have imported already.
multiprocessing.set_forkserver_preload(
    [
        "lightning_modules.classification",
        "lightning_modules.command_line",
        "lightning_modules.callbacks.run_texts",
        "lightning_modules.store_teacher",
        "sklearn.datasets",
        "tests.spawned",
    ]
)

Failure = Callable[[list[str]], tuple[Any, str]]


@pytest.fixture
def tiny() -> MobileMambaConfig:
    return TINY


@pytest.fixture
def tiny_data() -> TinyData:
    return TinyData()


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Build quiet one-process trainers whose files go to the test's folder."""
    return partial(quiet_trainer, tmp_path)


@pytest.fixture
def small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of a fit of two steps on the digits."""
    monkeypatch.setattr(sys, "argv", ["lightning"])  # Lightning warns of arguments given in both ways
    options = ["--data.class_path=datamodules.DigitsDataModule", "--data.batch_size=32"]
    options += ["--model.network.widths=[16,32,32]", "--model.network.depths=[1,1,1]"]
    options += ["--model.network.mixer_stages=[false,true,false]"]
    options += ["--run.name=small", f"--run.folder={tmp_path / 'all runs'}"]
    trainer = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2}
    trainer |= {"log_every_n_steps": 1, "enable_progress_bar": "false"}
    return [*options, *(f"--trainer.{name}={value}" for name, value in trainer.items())]


@pytest.fixture
def failure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Failure:
    """Return status and message of a command that must fail."""
    monkeypatch.setattr(sys, "argv", ["lightning"])

    def fail(arguments: list[str]) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return ended.value.code, capsys.readouterr().err

    return fail
