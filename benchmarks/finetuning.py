"""Fine-tuning, a linear probe and training from scratch, on other classes than the weights were trained on.

A small network is trained on some classes, then on few images of each other class, in three ways with several seeds.

Examples:
    python -m benchmarks finetuning                     # scikit-learn's digits: five classes, then the other five
    python -m benchmarks finetuning --data FOLDER       # photographs in FOLDER/{train,val}/<class>/
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from benchmarks.publish import in_percent
from lightning_modules.figures import write_figure
from lightning_modules.run_record import RunRecord
from mobilemamba.environment import environment
from mobilemamba.errors import UserError, require
from mobilemamba.files import write_json, write_text
from mobilemamba.images import find_images
from mobilemamba.tables import table

WAYS = {"fine-tuning": "finetune", "linear probe": "linear_probe", "from scratch": "finetune"}
"""Config of each way."""

METRIC = "val/top1_ema"


@dataclass(frozen=True)
class Trial:
    """One run on the new classes.

    Args:
        way: One of WAYS.
        images: Training images of each class.
        seed: Seed of the run; the images are the same for all.
        top1: Validation accuracy of the averaged weights after the last epoch, in [0, 1].
    """

    way: str
    images: int
    seed: int
    top1: float


def finetuning(
    data: Path | None = None,
    images: list[int] | None = None,
    seeds: int = 3,
    first_classes: int | None = None,
    image_size: int | None = None,
    first_epochs: int = 30,
    steps: int = 400,
    output: Path = Path("runs/finetuning"),
) -> list[Trial]:
    """Compare fine-tuning with training from scratch and with a linear probe, on few images of new classes.

    Every run on new classes takes about the same number of steps.

    Args:
        data: Folder with train/ and val/, each with a folder of photographs for each class. Null: the digits.
        images: Training images of each new class. Null: 20, 50 and 150 photographs, or 3, 10 and 50 digits.
        seeds: Runs of each kind.
        first_classes: Number of classes to train the weights on, the first ones. Null: five digits, or six.
        image_size: Height and width in pixels. Null: 128, or 64 of digits.
        first_epochs: Epochs on the first classes.
        steps: Optimiser steps on the new classes, rounded up to whole epochs.
        output: Folder for runs, finetuning.md, finetuning.json and finetuning.png; finished runs are not run again.

    Raises:
        UserError: When the data have too few classes, or a run fails.
    """
    require(seeds > 0, "--seeds", seeds, "1 or more")
    task = Task(data, first_classes or (5 if data is None else 6), image_size or (64 if data is None else 128), output)
    counts = images or ([3, 10, 50] if data is None else [20, 50, 150])
    start = task.fit("first", 0, task.first, None, first_epochs, [])
    weights = start / "checkpoints" / "last.ckpt"
    kinds = [(way, count, seed) for count in counts for way in WAYS for seed in range(seeds)]
    trials = []
    for way, count, seed in track(kinds, "runs", console=Console(stderr=True), transient=True):
        batches = max(count * len(task.others) // task.batch_size(count), 1)
        options = ["--config", WAYS[way], "--model.weights", str(weights)]
        if way == "from scratch":  # the same config, with the rate that suits random weights
            options[-1:] = ["null", "--model.optimizer.layer_decay", "null", "--model.optimizer.learning_rate", "2e-3"]
        name = f"{way.replace(' ', '_')}_{count}"
        run = task.fit(name, seed, task.others, count, -(-steps // batches), options)
        record = RunRecord.read(run)
        assert record is not None
        trials.append(Trial(way, count, seed, float(record.metrics[METRIC] or 0.0)))
    first = RunRecord.read(start)
    assert first is not None
    content = {
        "environment": environment(torch.device("cpu")),
        "first_classes": task.first,
        "new_classes": task.others,
        "first_top1": first.metrics[METRIC],
        "trials": [asdict(trial) for trial in trials],
    }
    write_json(output / "finetuning.json", content)
    text = as_table(trials)
    write_text(output / "finetuning.md", text + "\n")
    write_figure(draw(trials), output / "finetuning.png")
    print(f"{text}\n\nThe first classes were learned to {first.metrics[METRIC]:.1%}. Written to {output}.")
    return trials


class Task:
    """The first classes and the new ones of some data, and how to start runs on them.

    Args:
        data: Folder of photographs; None for the digits.
        first_classes: Number of first classes.
        image_size: Height and width in pixels.
        output: Folder of the runs.
    """

    def __init__(self, data: Path | None, first_classes: int, image_size: int, output: Path) -> None:
        names = [str(digit) for digit in range(10)] if data is None else _class_folders(data)
        if not 2 <= first_classes <= len(names) - 2:
            raise UserError(f"--first-classes = {first_classes} must leave two classes or more of {len(names)}.")
        self.data, self.image_size, self.output = data, image_size, output
        self.first, self.others = names[:first_classes], names[first_classes:]

    def batch_size(self, images: int | None) -> int:
        """Return the batch size: smaller for few images, and even, which mixing needs."""
        return 32 if images is None else min(32, images * len(self.others) // 2 * 2)

    def fit(
        self, name: str, seed: int, classes: list[str], images: int | None, epochs: int, options: list[str]
    ) -> Path:
        """Train unless the run has finished before; return its folder.

        Raises:
            UserError: When the run fails; names its log.
        """
        folder = self.output / name / f"seed_{seed}"
        record = RunRecord.read(folder)
        if record is not None and record.finished:
            return folder
        command = [sys.executable, "-c", "from lightning_modules.cli import main; main()", "fit"]
        command += [f"--data={'DigitsDataModule' if self.data is None else 'ImageNetDataModule'}", *options]
        command += [f"--run.folder={self.output}", f"--run.name={name}", f"--run.version=seed_{seed}"]
        command += ["--run.logger=csv", "--enable.export=false", f"--seed_everything={seed}", f"--data.seed={seed}"]
        command += ["--model.network.stem_stride=8"]
        command += ["--model.network.widths=[32,48,64]", "--model.network.depths=[1,1,1]"]
        command += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.precision=32-true"]
        command += [f"--trainer.max_epochs={epochs}", "--trainer.callbacks=null", "--ema.decay=0.99"]
        command += ["--ema.warmup=true", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false"]
        command += [f"--trainer.check_val_every_n_epoch={epochs}", *self._data(name, classes, images)]
        if name == "first":
            command += ["--model.optimizer.learning_rate=2e-3", "--model.optimizer.reference_batch_size=null"]
            command += ["--model.schedule.warmup_epochs=2"]
        log = self.output / name / f"seed_{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise UserError(f"A run failed with status {done.returncode}: {log} says why.")
        return folder

    def _data(self, name: str, classes: list[str], images: int | None) -> list[str]:
        options = [f"--data.image_size={self.image_size}", f"--data.batch_size={self.batch_size(images)}"]
        if self.data is None:
            few = [] if images is None else [f"--data.train_per_class={images}"]
            digits = f"--data.digits={json.dumps([int(digit) for digit in classes])}"
            return [digits, "--data.num_classes=null", "--data.validation_share=0.5", *few, *options]
        listed = self.output / f"{name}.csv"
        listed.parent.mkdir(parents=True, exist_ok=True)
        with listed.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "label", "split"))
            for split in ("train", "val"):
                for label in classes:
                    found = find_images(self.data / split / label, "--data")
                    for path in found[: images if split == "train" else None]:
                        rows.writerow((path.absolute(), label, split))
        return [f"--data.table={listed}", "--data.num_classes=null", "--data.num_workers=0", *options]


def as_table(trials: list[Trial]) -> str:
    """Return mean and standard deviation over seeds, in percent, as Markdown."""
    counts = sorted({trial.images for trial in trials})
    rows = []
    for way in WAYS:
        cells = []
        for count in counts:
            cells.append(in_percent([one.top1 for one in trials if (one.way, one.images) == (way, count)]))
        rows.append((way, *cells))
    return table(("top-1 in percent", *(f"{count} images a class" for count in counts)), rows)


def draw(trials: list[Trial]) -> Figure:
    """Draw every run and the means over seeds."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    counts = sorted({trial.images for trial in trials})
    for number, way in enumerate(WAYS):
        own = [trial for trial in trials if trial.way == way]
        means = [fmean(100 * trial.top1 for trial in own if trial.images == count) for count in counts]
        axes.plot(counts, means, color=f"C{number}", label=way)
        axes.plot([t.images for t in own], [100 * t.top1 for t in own], "o", color=f"C{number}", alpha=0.4)
    axes.set(xscale="log", xlabel="training images of each new class", ylabel="validation top-1 in percent")
    axes.set_xticks(counts, map(str, counts))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _class_folders(data: Path) -> list[str]:
    folder = data / "train"
    if not folder.is_dir():
        raise UserError(f"--data = {data} must be a folder with train/ and val/: {folder} is missing.")
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
