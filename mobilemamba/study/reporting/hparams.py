"""Entries for TensorBoard's HPARAMS tab: one for each finished run, with the figures of the table."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mobilemamba.study.reporting.rows import ArmRow, RunRow


def write_hparams(folder: Path, arms: Sequence[ArmRow], runs: Sequence[RunRow]) -> None:
    """Write the entries in place of those that are there.

    Args:
        folder: Holds a folder ARM/seed_S for each run.
        arms: Rows of the arms.
        runs: Rows of the finished runs.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    by_name = {arm.name: arm for arm in arms}
    for run in runs:
        arm = by_name[run.arm]
        _write_entry(unfinished / run.arm / f"seed_{run.seed}", arm, run)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def figures(arm: ArmRow, run: RunRow) -> dict[str, float]:
    """Return the metrics of a run: its own, and those of its arm. What is not known is left out."""
    values: dict[str, float | None] = {
        "run/top1_ema": run.top1_ema,
        "run/top1_raw": run.top1_raw,
        "run/minutes": run.minutes,
        "run/peak_memory_megabytes": run.peak_memory_megabytes,
        "arm/parameters": float(arm.parameters),
        "arm/gmacs": arm.macs / 1e9,
    }
    for name, spread in (("top1_ema", arm.top1_ema), ("top1_raw", arm.top1_raw)):
        if spread is not None:
            values |= {f"arm/{name}_mean": spread.mean, f"arm/{name}_deviation": spread.deviation}
    if arm.difference is not None:
        values["arm/difference"] = arm.difference.mean
    for device, speed in arm.speeds.items():
        values |= {f"images_per_second/{device}": speed.throughput, f"latency_milliseconds/{device}": speed.latency}
    return {name: value for name, value in values.items() if value is not None}


def _write_entry(folder: Path, arm: ArmRow, run: RunRow) -> None:
    options = {"arm": arm.name, "group": arm.group, "seed": run.seed} | dict(arm.overrides)
    metrics = figures(arm, run)
    with SummaryWriter(str(folder)) as writer:
        # Not writer.add_hparams: it opens a second file in a folder of its own, named for the time of day.
        for summary in hparams(options, metrics):
            writer.file_writer.add_summary(summary)
        for name, value in metrics.items():
            writer.add_scalar(name, value)
