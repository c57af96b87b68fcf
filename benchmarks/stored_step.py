"""Time of a training step with a stored teacher, with a live one and without: the same images, in turn.

It is the CPU time of all threads of this process from one step's end to the next: with data.num_workers 0 it includes
loading. Mixup and CutMix are off in all three.

Example: python -m benchmarks stored-step experiments/quickstart.yaml
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks import faulty_runs
from benchmarks.publish import write_results
from lightning_modules.command_line import CommandLine
from lightning_modules.store_teacher import store_teacher
from lightning_modules.warnings_filter import hide_known_warnings
from mobilemamba.tables import table

OFF = (*faulty_runs.OFF, "best_checkpoint")
WARM_UP = 3
"""Steps of a run that are not counted."""


class StepTimes(Callback):
    """Notes the CPU time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Note it."""
        self.ends.append(time.process_time())

    def milliseconds(self) -> float:
        """Return the time of the median step, which writes no image or checkpoint."""
        counted = self.ends[WARM_UP:]
        return 1e3 * median(after - before for before, after in pairwise(counted))


class MeasuredCommandLine(CommandLine):
    """``lightning fit`` with a stopwatch for its steps."""

    def before_fit(self) -> None:
        """Add the stopwatch."""
        self.times = StepTimes()
        self.trainer.callbacks.append(self.times)  # type: ignore[attr-defined]


def stored_step(
    config: list[str], rounds: PositiveInt = 5, options: list[str] | None = None, output: Path | None = None
) -> dict[str, float]:
    """Time a training step with a stored teacher, with the live one and with none, in turn.

    Args:
        config: Configs of `lightning fit` with a teacher.
        rounds: Runs of each kind, of one epoch; the fastest counts.
        options: Further options of `lightning fit`, as NAME=VALUE.
        output: JSON file for the figures.
    """
    hide_known_warnings()
    sys.argv = sys.argv[:1]  # Lightning warns if there are arguments here, too
    always = ["data.mixing.mixup=0", "data.mixing.cutmix=0", "trainer.max_epochs=1", "trainer.limit_val_batches=0"]
    always += ["trainer.num_sanity_val_steps=0", "trainer.enable_progress_bar=false"]
    shared = [*(options or []), *always, *(f"enable.{one}=false" for one in OFF)]
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        store_teacher(config, views=1, output=Path(folder, "store"), set=options or [])
        kinds = {"none": ["model.teacher=null"], "stored": [f"model.teacher.stored={folder}/store"], "live": []}
        for number in range(rounds):
            for kind, own in kinds.items():
                words = [word for name in config for word in ("--config", name)]
                words += [f"--{text}" for text in (*shared, *own, f"run.folder={folder}/runs")]
                took = MeasuredCommandLine(["fit", *words]).times.milliseconds()
                best[kind] = min(took, best.get(kind, took))
                print(f"round {number + 1}, teacher {kind}: {took:.2f} ms of CPU time per step", flush=True)
    rows = [(kind, f"{took:.2f}", f"{took / best['none']:.3f}") for kind, took in best.items()]
    print("\n" + table(("teacher", "ms of CPU time per step", "relative"), rows))
    if output is not None:
        results = [{"teacher": kind, "milliseconds": took} for kind, took in best.items()]
        write_results(output, torch.device("cpu"), results, arguments=[*config, *shared])
    return best
