"""Ctrl-C in the middle of fit keeps a checkpoint that can be exported; runs of the command show the resume."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from lightning_modules.callbacks import EMA, LastCheckpoint, SaveOnInterrupt, interruption
from lightning_modules.callbacks.interruption import next_steps
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig, load_network
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


class CtrlC(Callback):
    def __init__(self, batch: int, times: int = 1, number: int = signal.SIGINT) -> None:
        self.batch, self.times, self.number = batch, times, number

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for _ in range(self.times if batch_idx == self.batch else 0):
            os.kill(os.getpid(), self.number)


def interrupt(make_trainer: MakeTrainer, tiny: MobileMambaConfig, folder: Path, ctrl_c: CtrlC, **options: Any) -> Path:
    callbacks = [EMA(), LastCheckpoint(dirpath=str(folder)), SaveOnInterrupt(), ctrl_c]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, **options)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert ended.value.code == (1 if ctrl_c.times == 2 else 128 + ctrl_c.number)
    assert signal.getsignal(signal.SIGTERM) == before
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning lets it be ignored after a second one
    return folder / "last.ckpt"


@pytest.mark.parametrize(("options", "kept_step"), [({}, 1), ({"accumulate_grad_batches": 2}, 1)])
def test_ctrl_c_keeps_what_can_be_exported_and_says_so(
    make_trainer: MakeTrainer,
    tiny: MobileMambaConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: dict[str, int],
    kept_step: int,
) -> None:
    monkeypatch.setattr(interruption, "stop_progress_bar", lambda trainer: print("the bar ends"))
    path = interrupt(make_trainer, tiny, tmp_path, CtrlC(batch=0), **options)
    printed = capsys.readouterr().out
    assert printed.startswith("the bar ends\nTraining was interrupted")
    assert f"\n  mobilemamba export --checkpoint {path} --format onnx\n" in printed
    assert "lightning fit" not in printed  # there is no config to name
    network, metadata = load_network(path)
    assert network.config == tiny
    assert metadata.class_names is not None
    assert torch.load(path, weights_only=True)["global_step"] == kept_step


def test_a_second_ctrl_c_ends_at_once(make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    assert not interrupt(make_trainer, tiny, tmp_path, CtrlC(batch=1, times=2)).exists()


def test_sighup_ends_the_run_after_saving(make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    assert interrupt(make_trainer, tiny, tmp_path, CtrlC(batch=0, number=signal.SIGHUP)).exists()


def test_sigusr1_saves_and_goes_on(make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path) -> None:
    callbacks = [LastCheckpoint(dirpath=str(tmp_path)), SaveOnInterrupt(), CtrlC(batch=0, number=signal.SIGUSR1)]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True)
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    names = ("last.previous.ckpt", "last.ckpt")
    assert [torch.load(tmp_path / name, weights_only=True)["global_step"] for name in names] == [1, 3]


@pytest.mark.parametrize(
    ("array", "job"), [({}, "42"), ({"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, "7_3")]
)
def test_slurm_is_asked_to_requeue_the_job(
    array: dict[str, str],
    job: str,
    make_trainer: MakeTrainer,
    tiny: MobileMambaConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "asked"}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, value in ({"SLURM_JOB_ID": "42"} | array).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(interruption, "requeues", lambda trainer: True)
    assert interrupt(make_trainer, tiny, tmp_path / "run", CtrlC(batch=0, number=signal.SIGUSR1)).exists()
    assert (tmp_path / "asked").read_text() == f"requeue {job}\n"


def test_both_commands_can_be_copied(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    (folder / "checkpoints").mkdir(parents=True)
    path, config = folder / "checkpoints" / "last.ckpt", folder / "config.yaml"
    path.touch()
    config.touch()
    commands = [shlex.split(line) for line in next_steps(path).splitlines() if line.startswith("  ")]
    assert commands == [
        ["mobilemamba", "export", "--checkpoint", str(path), "--format", "onnx"],
        ["lightning", "fit", "--config", str(config), "--ckpt_path", str(path)],
    ]
