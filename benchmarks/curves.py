"""A picture of runs: validation accuracy and the parts of the training loss, read from their TensorBoard logs.

Example: python -m benchmarks.curves runs/quickstart/version_0 --output docs/images/quickstart_curves.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

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
        FileNotFoundError: When the folder holds no event file.
    """
    if not list(folder.glob("events.out.tfevents.*")):
        raise FileNotFoundError(f"{folder} holds no TensorBoard log: give a run's folder, such as runs/s6/version_0.")
    log = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: ([event.step for event in log.Scalars(tag)], [event.value for event in log.Scalars(tag)])
        for tag in log.Tags()["scalars"]
    }


def draw(runs: dict[str, dict[str, Curve]]) -> Figure:
    """Draw all runs into the same panels, one colour per run.

    Args:
        runs: Curves by tag, by the run's label.
    """
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


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--labels", nargs="+", help="names of the runs in the picture (default: their folders)")
    parser.add_argument("--output", type=Path, required=True, help="PNG or SVG file")
    arguments = parser.parse_args()
    labels = arguments.labels or [str(run) for run in arguments.runs]
    if len(labels) != len(arguments.runs):
        parser.error(f"--labels names {len(labels)} runs, but {len(arguments.runs)} are given.")
    figure = draw({label: read_curves(run) for label, run in zip(labels, arguments.runs, strict=True)})
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=120)
    print(arguments.output)


if __name__ == "__main__":
    main()
