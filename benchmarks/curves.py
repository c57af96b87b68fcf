"""A picture of runs: validation accuracy and the parts of the training loss, read from their TensorBoard logs.

Example: python -m benchmarks curves runs/quickstart/version_0 --output docs/images/quickstart_curves.png
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_modules.figures import write_figure
from mobilemamba.errors import UserError, require

Curve = tuple[list[int], list[float]]
"""Optimiser steps and values."""

PANELS = {
    "validation top-1": {"val/top1_ema": "EMA", "val/top1_raw": "raw"},
    "training loss": {"train/loss_task": "task", "train/loss_distillation": "distillation"},
}
LINES = ("-", "--")


def read_curves(folder: Path) -> dict[str, Curve]:
    """Return all scalars of a run's TensorBoard log by their tags.

    Args:
        folder: A run's folder, with config.yaml and the event files.

    Raises:
        UserError: When the folder holds no event file.
    """
    if not list(folder.glob("events.out.tfevents.*")):
        raise UserError(f"{folder} holds no TensorBoard log: give a run's folder, such as runs/s6/version_0.")
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    events = {tag: log.Scalars(tag) for tag in log.Tags()["scalars"]}
    return {tag: ([one.step for one in scalars], [one.value for one in scalars]) for tag, scalars in events.items()}


def draw(runs: dict[str, dict[str, Curve]]) -> Figure:
    """Draw all runs, curves by tag by a run's label, into the same panels, one colour per run."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (title, tags) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for number, (label, curves) in enumerate(runs.items()):
            for line, (tag, kind) in zip(LINES, tags.items(), strict=True):
                if tag in curves:
                    axes.plot(*curves[tag], line, color=f"C{number}", label=f"{label}, {kind}")
        axes.set(title=title, xlabel="optimiser steps")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    return figure


def curves(runs: list[Path], output: Path, labels: list[str] | None = None) -> None:
    """Draw validation accuracy and the parts of the training loss of runs.

    Args:
        runs: Folders of runs.
        output: PNG file.
        labels: Names of the runs in the picture. Null: their folders.
    """
    names = labels or [str(run) for run in runs]
    require(len(names) == len(runs), "--labels", names, f"{len(runs)} names, one for each run")
    write_figure(draw({name: read_curves(run) for name, run in zip(names, runs, strict=True)}), output)
    print(output)
