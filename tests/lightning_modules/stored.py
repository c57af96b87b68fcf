"""A stored teacher of the digits, made by the real command."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from experiments.cli import main
from lightning_modules import teacher_storing
from tests.spawned import QUICK

ROOT = Path(__file__).parents[2]
TEACHER = {
    "name": "test_efficientnet",
    "checkpoint": str(ROOT / "experiments/teachers/digits_test_efficientnet.safetensors"),
    "image_size": 64,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
DATA = {"image_size": 32, "batch_size": 8, "num_workers": 0, "train_per_class": 6}


def write_config(folder: Path, **sections: Any) -> Path:
    """Write the config of a distillation on 60 digits of 32 pixels."""
    config = {
        "data": {"class_path": "datamodules.DigitsDataModule", "init_args": DATA},
        "model": {"network": {"stem_stride": 4, "widths": [16, 16, 32], "depths": [1, 1, 1]}, "teacher": TEACHER},
        "trainer": {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        "run": {"name": "small", "logger": "csv"},
    }
    path = folder / "distilled.yaml"
    path.write_text(yaml.safe_dump(config | sections))
    return path


def store(folder: Path, output: Path, *options: str) -> int:
    """Store a teacher in this process; return the command's status."""
    return main(["store-teacher", "--config", str(write_config(folder)), f"--output={output}", *options])


def store_and_die(folder: Path, output: Path, batches: int, *options: str) -> int | None:
    """Store a teacher in a process that is killed after so many batches; return its status."""
    process = multiprocessing.get_context(QUICK).Process(
        target=_store_and_die, args=(folder, output, batches, *options)
    )
    process.start()
    process.join(timeout=300)
    process.kill()
    return process.exitcode


def _store_and_die(folder: Path, output: Path, batches: int, *options: str) -> None:
    done, set_rows = [], teacher_storing.set_rows

    def dying(*arguments: Any) -> None:
        set_rows(*arguments)
        done.append(1)
        if len(done) == batches:
            os.kill(os.getpid(), signal.SIGKILL)

    teacher_storing.set_rows = dying
    sys.exit(store(folder, output, *options))


def fail(device: int, job: object, done: object, errors: Any) -> None:
    """Stand in for the work of a process, which ends with an error; here, since it is quick to import."""
    errors.put("the disk is full")
    raise RuntimeError
