"""Accuracy of students of a stored teacher by its numbers of views V and classes K, compared with a live teacher.

One store has all views and classes; the smaller ones are parts of it. Every arm is run by the `lightning` command with
several seeds; its CPU time is that of training and one validation.

Examples:
    python -m benchmarks stored-teacher                     # scikit-learn's digits, the quickstart's teacher
    python -m benchmarks stored-teacher --data FOLDER --teacher name=resnet50 checkpoint=teacher.safetensors
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from benchmarks.publish import in_percent
from datamodules.likeliest_classes import MOST_CLASSES, make_rows
from datamodules.stored_teacher import StoredTeacher
from lightning_modules.command_line import CommandLine
from lightning_modules.figures import write_figure
from lightning_modules.run_record import RunRecord
from lightning_modules.store_teacher import Meter
from lightning_modules.teacher_storing import Job, TeacherStoring
from lightning_modules.warnings_filter import hide_known_warnings
from mobilemamba.environment import environment
from mobilemamba.errors import require
from mobilemamba.files import write_json, write_text
from mobilemamba.tables import table

METRIC = "val/top1_ema"
UNMIXED = ("data.mixing.mixup=0", "data.mixing.cutmix=0")
DIGITS_TEACHER = Path(__file__).parents[1] / "experiments" / "quickstart.yaml"


@dataclass(frozen=True)
class Trial:
    """One run.

    Args:
        arm: What it learned from.
        views: Views that were stored; None without a store.
        top_k: Classes that were kept; None without a store.
        seed: Its seed.
        top1: Validation accuracy of the averaged weights after the last epoch, in [0, 1].
        seconds: CPU time.
    """

    arm: str
    views: int | None
    top_k: int | None
    seed: int
    top1: float
    seconds: float


def stored_teacher(
    data: Path | None = None,
    teacher: list[str] | None = None,
    views: list[int] | None = None,
    top_k: list[int] | None = None,
    seeds: int = 3,
    epochs: int = 30,
    image_size: int = 128,
    output: Path = Path("runs/stored_teacher"),
) -> list[Trial]:
    """Compare students of a stored teacher, for several V and K, with students of a live one and of labels alone.

    Args:
        data: Folder with train/ and val/, each with a folder of photographs for each class. Null: the digits.
        teacher: Options of model.teacher, such as name=resnet50. Null: the quickstart's, which only knows digits.
        views: Numbers of views to compare, with all classes kept. Null: 1, 3, 10 and one for each epoch.
        top_k: Numbers of classes to compare, with the most views. Null: 1, 2 and 5.
        seeds: Runs of each arm.
        epochs: Epochs of each run.
        image_size: Height and width of photographs in pixels.
        output: Folder for runs, stores, stored_teacher.md, .json and .png; finished runs are not run again.

    Raises:
        UserError: When photographs are given without a teacher, or options of a run are wrong.
    """
    require(seeds > 0, "--seeds", seeds, "1 or more")
    require(data is None or bool(teacher), "--teacher", teacher, "options of model.teacher, such as name=resnet50")
    hide_known_warnings()
    sys.argv = sys.argv[:1]  # Lightning warns if there are arguments here, too
    all_views = sorted(views or {1, 3, 10, epochs})
    base = _options(data, image_size, epochs) + [f"--model.teacher.{option}" for option in teacher or []]
    output.mkdir(parents=True, exist_ok=True)
    record = output / "stored_teacher.json"
    known = json.loads(record.read_text()) if record.is_file() else {"trials": []}
    done = {(entry["arm"], entry["seed"]): Trial(**entry) for entry in known["trials"]}
    storing = known.get("storing_seconds") or _store(base, all_views[-1], output / "store")
    whole = StoredTeacher(output / "store")
    arms: dict[str, tuple[list[str], int | None, int | None]] = {
        "labels alone": (["model.teacher=null"], None, None),
        "live teacher": ([], None, None),
        "live teacher, not mixed": (list(UNMIXED), None, None),
    }
    parts = [(v, whole.classes) for v in all_views] + [(all_views[-1], k) for k in sorted(top_k or (1, 2, 5))]
    for number, kept in parts:
        part = _part(whole, number, kept, output / f"store_{number}_{kept}")
        arms[f"stored, V {number}, K {kept}"] = ([f"model.teacher.stored={part}"], number, kept)
    mixed = [f"model.teacher.stored={output / 'store'}", "model.teacher.mixing=true"]
    arms["stored, mixed"] = (mixed, all_views[-1], whole.classes)
    kinds = [(arm, seed) for seed in range(seeds) for arm in arms]
    for arm, seed in track(kinds, "runs", console=Console(stderr=True), transient=True):
        if (arm, seed) not in done:
            options, v, k = arms[arm]
            folder = output / "runs" / arm.replace(", ", "_").replace(" ", "_") / f"seed_{seed}"
            top1, seconds = _fit([*base, *(f"--{option}" for option in options)], seed, folder)
            done[arm, seed] = Trial(arm, v, k, seed, top1, seconds)
        trials = [done[kind] for kind in kinds if kind in done]
        content = {"environment": environment(torch.device("cpu")), "storing_seconds": storing, "epochs": epochs}
        write_json(record, content | {"trials": [asdict(trial) for trial in trials]})
    text = as_table(trials)
    write_text(output / "stored_teacher.md", text + "\n")
    write_figure(draw(trials), output / "stored_teacher.png")
    print(f"{text}\n\nStoring {all_views[-1]} views took {storing:.0f} s of CPU time. Written to {output}.")
    return trials


def as_table(trials: list[Trial]) -> str:
    """Return a Markdown table: accuracy in percent and CPU time, mean (and standard deviation) over seeds."""
    rows = []
    for arm in dict.fromkeys(trial.arm for trial in trials):
        own = [trial for trial in trials if trial.arm == arm]
        rows.append((arm, in_percent([one.top1 for one in own]), f"{fmean(one.seconds for one in own):.0f}"))
    return table(("learned from", "top-1 in percent", "seconds of CPU time"), rows)


def draw(trials: list[Trial]) -> Figure:
    """Draw accuracy against V with all classes and against K with the most views, and of runs without a store."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    stored = [trial for trial in trials if trial.arm.startswith("stored, V")]
    most = {name: max(getattr(trial, name) for trial in stored) for name in ("views", "top_k")}
    panels = (
        ("views", "top_k", f"views of each image, {most['top_k']} classes kept"),
        ("top_k", "views", f"classes kept, {most['views']} views"),
    )
    for axes, (name, other, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        own = [trial for trial in stored if getattr(trial, other) == most[other]]
        places = sorted({getattr(trial, name) for trial in own})
        means = [fmean(100 * t.top1 for t in own if getattr(t, name) == place) for place in places]
        axes.plot(places, means, "C0", label="stored teacher")
        axes.plot([getattr(t, name) for t in own], [100 * t.top1 for t in own], "o", color="C0", alpha=0.4)
        for number, arm in enumerate(("live teacher, not mixed", "live teacher", "labels alone"), 1):
            mean = fmean(100 * trial.top1 for trial in trials if trial.arm == arm)
            axes.axhline(mean, color=f"C{number}", linestyle="--", label=arm)
        axes.set(xscale="log", xlabel=label)
        axes.set_xticks(places, map(str, places))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend()
    figure.axes[0].set_ylabel("validation top-1 in percent")
    return figure


def _options(data: Path | None, image_size: int, epochs: int) -> list[str]:
    """Return the options that all runs share."""
    shared = [f"--trainer.max_epochs={epochs}", f"--trainer.check_val_every_n_epoch={epochs}"]
    shared += ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    shared += ["--trainer.precision=32-true", "--ema.decay=0.9", "--ema.warmup=true", "--trainer.callbacks=null"]
    if data is None:
        configs = (DIGITS_TEACHER, "ablations/digits", "ablations/digits_small")
        return [*(f"--config={one}" for one in configs), "--model.optimizer.learning_rate=4e-3", *shared]
    options = ["--data=ImageNetDataModule", f"--data.root={data}", "--data.num_classes=null", "--data.num_workers=0"]
    options += [f"--data.image_size={image_size}", "--data.batch_size=32", "--model.network.stem_stride=8"]
    options += ["--model.network.widths=[32,48,64]", "--model.network.depths=[1,1,1]"]
    options += ["--model.optimizer.learning_rate=2e-3", "--model.optimizer.reference_batch_size=null"]
    return [*options, "--model.schedule.warmup_epochs=1", *shared]


def _part(whole: StoredTeacher, views: int, top_k: int, folder: Path) -> Path:
    """Write the first views and likeliest classes of a store as another store."""
    counts = whole.manifest["images"], whole.classes
    part = StoredTeacher.create(folder, whole.manifest["fingerprint"], *counts, top_k)
    part.want(views)
    for view in part.missing():
        all_rows = np.load(whole.path(view))
        rows = make_rows(part.row_type, len(all_rows))
        for field in ("classes", "probabilities"):
            rows[field] = all_rows[field][:, :top_k]
        part.add(view, rows)
    return folder


def _store(options: list[str], views: int, folder: Path) -> float:
    """Store all classes of a teacher; return the CPU time, without the start of a process."""
    began = time.process_time()
    storing = TeacherStoring(Job(options, views, MOST_CLASSES, folder), 0)
    storing.store.want(views)
    with Meter(len(storing.store.missing()), storing.store.manifest["images"]) as meter:
        storing.run(meter.advance)
    return time.process_time() - began


def _fit(options: list[str], seed: int, folder: Path) -> tuple[float, float]:
    """Run ``lightning fit``; return the final accuracy and the CPU time."""
    if folder.is_dir():
        shutil.rmtree(folder)
    arguments = ["fit", *options, f"--seed_everything={seed}", f"--data.seed={seed}", "--run.logger=csv"]
    arguments += [f"--run.folder={folder.parents[1]}", f"--run.name={folder.parent.name}"]
    arguments += [f"--run.version={folder.name}"]
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    with log.open("w") as out, redirect_stdout(out), redirect_stderr(out):
        CommandLine([*arguments, "--enable.export=false", "--enable.receptive_field=false", "--enable.summary=false"])
    seconds = time.process_time() - began
    record = RunRecord.read(folder)
    assert record is not None
    return float(record.metrics[METRIC] or 0.0), seconds
