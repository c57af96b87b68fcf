"""Small runs of the real command in which a fault happens, and the comparison of their checkpoints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

COMMAND = str(Path(sys.executable).with_name("lightning"))
LAST = Path("runs/mobilemamba/version_0/checkpoints/last.ckpt")
STEPS_FILE = "steps.txt"
OFF = ("export", "receptive_field", "scan_decay", "class_results", "sample_images", "complexity", "summary")


class FaultCallback(Callback):
    """Notes every optimiser step that begins, and causes a fault before one of them.

    Args:
        step: Number of the optimiser step.
        kind: Name of a signal to send to its own process, or "die" (kill its loader processes), "nan" (set a weight of
            the student to NaN), "lose" (rename a folder), "stall" (opening a file in the folder hangs). Null: none.
        rank: The process in which it happens.
        validating: It happens in the first batch of the validation after that step, instead.
        folder: The folder of "lose" and "stall".
    """

    def __init__(
        self, step: int = -1, kind: str | None = None, rank: int = 0, validating: bool = False, folder: str = ""
    ) -> None:
        self.step, self.kind, self.rank, self.validating, self.folder = step, kind, rank, validating, folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the step."""
        if trainer.is_global_zero:
            with Path(STEPS_FILE).open("a") as file:
                file.write(f"{trainer.global_step}\n")
        if not self.validating:
            self._cause(trainer, pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Cause the fault if it belongs here."""
        if self.validating:
            self._cause(trainer, pl_module)

    def _cause(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step != self.step or trainer.global_rank != self.rank or self.kind is None:
            return
        if self.kind == "nan":
            with torch.no_grad():
                next(pl_module.parameters()).fill_(torch.nan)
        elif self.kind in ("lose", "stall"):
            lost = Path(self.folder).rename(f"{self.folder} lost")
            if self.kind == "stall":
                Path(self.folder).mkdir()
                for file in lost.iterdir():
                    os.mkfifo(Path(self.folder) / file.name)
        elif self.kind == "die":
            iterator: Any = trainer.fit_loop._data_fetcher.combined_loader.flattened[0]._iterator  # type: ignore[union-attr]
            for worker in iterator._workers:
                os.kill(worker.pid, signal.SIGKILL)
        else:
            os.kill(os.getpid(), getattr(signal, self.kind))


def fault_option(**arguments: Any) -> str:
    """Return the option that adds a :class:`FaultCallback` with these arguments to a run."""
    path = f"{__name__}.{FaultCallback.__name__}"
    return f"--trainer.callbacks={yaml.safe_dump([{'class_path': path, 'init_args': arguments}])}"


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


def start(folder: Path, *options: str, file_limit: int | None = None) -> subprocess.Popen[str]:
    """Start ``lightning fit`` in a folder, in a group of processes of its own.

    Args:
        folder: Where it runs.
        options: Of the command.
        file_limit: Most bytes of a file that it may write, as on a full disk.
    """

    def limit() -> None:
        import resource  # not on Windows

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails instead
        assert file_limit is not None
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen(
        [sys.executable, COMMAND, "fit", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=None if file_limit is None else limit,
    )


def fit(folder: Path, *options: str, file_limit: int | None = None) -> tuple[int, str]:
    """Run ``lightning fit`` in a folder to its end; return its exit status and output."""
    process = start(folder, *options, file_limit=file_limit)
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, output


def kill_after(process: subprocess.Popen[str], folder: Path, steps: int, seconds: float) -> None:
    """Kill a run and all its processes, unless it ends before.

    Args:
        process: The run.
        folder: Where it runs.
        steps: Number of further steps to wait for.
        seconds: Time to wait after them.
    """
    before = steps_begun(folder)
    while steps_begun(folder) < before + steps and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def steps_begun(folder: Path) -> int:
    """Return how many optimiser steps the runs in a folder have begun, repeated ones included."""
    file = folder / STEPS_FILE
    return len(file.read_text().split()) if file.is_file() else 0


def different_parts(one: Path, other: Path) -> list[str]:
    """Return names of weights, averages, optimiser state and steps that differ in any bit between two checkpoints."""
    first, second = _training_state(one), _training_state(other)
    different = [name for name in first.keys() & second.keys() if not _equal(first[name], second[name])]
    return sorted([*different, *(first.keys() ^ second.keys())])


def _training_state(path: Path) -> dict[str, Any]:
    content = torch.load(path, weights_only=True)
    parts = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers", "global_step")
    return dict(_flat({name: content[name] for name in parts if name in content}))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(part, f"{name}/{key}")
    else:
        yield name, value


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)
