"""Ctrl-C in the middle of fit keeps a checkpoint that can be resumed and exported."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from lightning_modules.callbacks import EMA, LastCheckpoint, SaveOnInterrupt, interruption
from lightning_modules.callbacks.interruption import next_steps
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig, load_network
from tests.lightning_modules.tiny_data import TinyData

MakeTrainer = Callable[..., Trainer]


class CtrlC(Callback):
    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            raise KeyboardInterrupt


def interrupt(make_trainer: MakeTrainer, tiny: MobileMambaConfig, folder: Path, batch: int) -> Path:
    callbacks = [EMA(), LastCheckpoint(dirpath=str(folder)), SaveOnInterrupt(), CtrlC(batch)]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(SystemExit):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    return folder / "interrupted.ckpt"


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_ctrl_c_keeps_what_can_be_exported_and_resumed_and_says_so(
    make_trainer: MakeTrainer,
    tiny: MobileMambaConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(interruption, "stop_progress_bar", lambda trainer: print("the bar ends"))
    path = interrupt(make_trainer, tiny, tmp_path, batch=2)
    printed = capsys.readouterr().out
    assert printed.startswith("the bar ends\nTraining was interrupted")
    assert f"\n  mobilemamba export --checkpoint {path} --format onnx\n" in printed
    assert "lightning fit" not in printed  # there is no config to name
    network, metadata = load_network(path)
    assert network.config == tiny
    assert metadata.class_names is not None
    trainer = make_trainer(callbacks=[EMA(), LastCheckpoint(dirpath=str(tmp_path))], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="dataloader is not resumable"):
        trainer.fit(ImageClassification(tiny), datamodule=TinyData(), ckpt_path=path, weights_only=True)
    assert trainer.global_step == 3


def test_nothing_is_kept_of_a_run_that_has_not_begun(
    make_trainer: MakeTrainer, tiny: MobileMambaConfig, tmp_path: Path
) -> None:
    assert not interrupt(make_trainer, tiny, tmp_path, batch=0).exists()


def test_both_commands_can_be_copied(tmp_path: Path) -> None:
    folder = tmp_path / "my runs"
    (folder / "checkpoints").mkdir(parents=True)
    path, config = folder / "checkpoints" / "interrupted.ckpt", folder / "config.yaml"
    path.touch()
    config.touch()
    commands = [shlex.split(line) for line in next_steps(path).splitlines() if line.startswith("  ")]
    assert commands == [
        ["mobilemamba", "export", "--checkpoint", str(path), "--format", "onnx"],
        ["lightning", "fit", "--config", str(config), "--ckpt_path", str(path)],
    ]
