"""Runs of the real command that something happens to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

COMMAND = str(Path(sys.executable).with_name("lightning"))
OFF = ("export", "receptive_field", "scan_decay", "class_results", "sample_images", "complexity", "summary")


class SignalAt(Callback):
    """Sends a signal to its own process before an optimiser step.

    Args:
        step: The step.
        number: The signal.
        rank: The process that it is sent to.
        validating: Send it in the first batch of the validation after that step, instead.
    """

    def __init__(self, step: int, number: int, rank: int = 0, validating: bool = False) -> None:
        self.step, self.number, self.rank, self.validating = step, number, rank, validating

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self.validating:
            self._send(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self.validating:
            self._send(trainer)

    def _send(self, trainer: Trainer) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)


def write_config(folder: Path, **trainer: Any) -> Path:
    """Write the config of a run on the digits; two epochs of six steps unless options of the trainer say otherwise."""
    quiet = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    limits = {"max_epochs": 2, "limit_train_batches": 6, "limit_val_batches": 1}
    config = {
        "data": {
            "class_path": "datamodules.DigitsDataModule",
            "init_args": {"image_size": 32, "batch_size": 8, "num_workers": 2},
        },
        "model": {
            "network": {"stem_stride": 4, "widths": [16, 16, 32], "depths": [1, 1, 1], "drop_path_rate": 0.5},
            "schedule": {"warmup_epochs": 0},
        },
        "run": {"logger": "csv"},
        "enable": dict.fromkeys(OFF, False),
        "trainer": quiet | limits | trainer,
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def signal_at(step: int, number: int, rank: int = 0, validating: bool = False) -> str:
    """Return the option by which a run gets a signal."""
    arguments = {"step": step, "number": int(number), "rank": rank, "validating": validating}
    return f"--trainer.callbacks={yaml.safe_dump([{'class_path': f'{__name__}.SignalAt', 'init_args': arguments}])}"


def fit(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``lightning fit`` in a folder."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, COMMAND, "fit", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def training_state(path: Path) -> dict[str, Any]:
    """Return weights, averages and optimiser state of a checkpoint, by their names."""
    content = torch.load(path, weights_only=True)
    parts = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    return dict(flat({name: content[name] for name in parts if name in content}))


def flat(value: Any, name: str = "") -> Any:
    """Give all values in nested containers with their names."""
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(part, f"{name}/{key}")
    else:
        yield name, value


def assert_same_training(one: Path, other: Path) -> None:
    """Check that two checkpoints hold the same training, bit for bit."""
    first, second = training_state(one), training_state(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not equal(first[name], second[name])]
    assert not different, different


def equal(one: Any, other: Any) -> bool:
    """Return whether two values are the same, bit for bit."""
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)
