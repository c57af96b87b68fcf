"""Entries for TensorBoard's HPARAMS tab: one for each finished run, with the figures of the table.

TensorBoard takes its columns from one entry alone, whichever it reads first, so that every entry names those of all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from experiments.studies.reporting.rows import ArmRow, RunRow

NOT_OVERRIDDEN = "not overridden"


def write_hparams(folder: Path, arms: Sequence[ArmRow], runs: Sequence[RunRow]) -> None:
    """Write the entries in place of those that are there.

    Args:
        folder: Holds a folder ARM/seed_S for each run.
        arms: Rows of the arms.
        runs: Rows of the finished runs.
    """
    by_name = {arm.name: arm for arm in arms}
    overridden = list(dict.fromkeys(name for arm in arms for name in arm.overrides))
    metrics = {(run.arm, run.seed): run_figures(by_name[run.arm], run) for run in runs}
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for run in runs:
        arm = by_name[run.arm]
        # As text, since a column has one type.
        overrides = {name: str(arm.overrides.get(name, NOT_OVERRIDDEN)) for name in overridden}
        options = {"arm": arm.name, "group": arm.group, "seed": str(run.seed)} | overrides
        found = {name: metrics[run.arm, run.seed].get(name) for name in names}
        _write_entry(unfinished / run.arm / f"seed_{run.seed}", options, found)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def run_figures(arm: ArmRow, run: RunRow) -> dict[str, float | None]:
    """Return the metrics of a run, its own and those of its arm; None where a figure is not known.

    Args:
        arm: Row of its arm.
        run: Row of the run.
    """
    ema, raw, difference = arm.top1_ema, arm.top1_raw, arm.difference
    figures: dict[str, float | None] = {
        "run/top1_ema": run.top1_ema,
        "run/top1_raw": run.top1_raw,
        "arm/top1_ema_mean": None if ema is None else ema.mean,
        "arm/top1_ema_deviation": None if ema is None else ema.deviation,
        "arm/difference_to_base": None if difference is None else difference.mean,
        "arm/top1_raw_mean": None if raw is None else raw.mean,
        "arm/top1_raw_deviation": None if raw is None else raw.deviation,
        "arm/parameters": float(arm.parameters),
        "arm/gmacs": arm.macs / 1e9,
    }
    for device, speed in arm.speeds.items():
        figures[f"images_per_second/{device}"] = speed.throughput
        figures[f"latency_milliseconds/{device}"] = speed.latency
    return figures | {"run/minutes": run.minutes, "run/peak_memory_megabytes": run.peak_memory_megabytes}


def _write_entry(folder: Path, options: Mapping[str, str], figures: Mapping[str, float | None]) -> None:
    with SummaryWriter(str(folder)) as writer:
        # Not writer.add_hparams: it opens a second file in a folder of its own, named for the time of day.
        for summary in hparams(dict(options), dict(figures)):
            writer.file_writer.add_summary(summary)
        for name, value in figures.items():
            if value is not None:
                writer.add_scalar(name, value)
