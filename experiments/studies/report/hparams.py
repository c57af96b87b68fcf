"""Entries for TensorBoard's HPARAMS tab: one for each finished run, with the numbers of the tables.

TensorBoard takes its columns from the first entry that it reads, so every entry names all columns.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from experiments.studies.report.arms import SPEEDS, in_words, speed_column
from experiments.studies.report.results import StudyResults

NOT_OVERRIDDEN = "not overridden"


def write_hparams(folder: Path, study: StudyResults, arms: pd.DataFrame, devices: Sequence[str]) -> None:
    """Write the entries, replacing older ones.

    Args:
        folder: Folder for a folder ARM/seed_S of each run.
        study: The study.
        arms: The table of its arms.
        devices: Devices of the speeds.
    """
    by_name = {arm.name: arm for arm in study.arms}
    overridden = list(dict.fromkeys(name for arm in study.arms for name in arm.overrides))
    runs = study.finished[["arm", "seed"]]
    figures = run_figures(study, arms, devices)
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for index, name, seed in runs.itertuples():
        arm = by_name[name]
        # As text, since a column has one type.
        overrides = {name: in_words(arm.overrides.get(name, NOT_OVERRIDDEN)) for name in overridden}
        options = {"arm": name, "group": arm.group, "seed": str(seed)} | overrides
        found = {name: None if pd.isna(value) else float(value) for name, value in figures.loc[index].items()}
        with SummaryWriter(str(unfinished / name / f"seed_{seed}")) as writer:
            # Not writer.add_hparams, which writes to a second file in a folder of its own.
            for summary in hparams(options, found):
                writer.file_writer.add_summary(summary)
            for metric, value in found.items():
                if value is not None:
                    writer.add_scalar(metric, value)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def run_figures(study: StudyResults, arms: pd.DataFrame, devices: Sequence[str]) -> pd.DataFrame:
    """Return a row for each finished run: its own numbers and those of its arm."""
    runs = study.finished
    of_arms = arms.loc[runs["arm"]].set_index(runs.index)
    columns = {
        "run/top1_ema": runs["top1_ema"],
        "run/top1_raw": runs["top1_raw"],
        "arm/top1_ema_mean": of_arms["top1_ema_mean"],
        "arm/top1_ema_deviation": of_arms["top1_ema_deviation"],
        "arm/difference_to_base": of_arms["difference"],
        "arm/top1_raw_mean": of_arms["top1_raw_mean"],
        "arm/top1_raw_deviation": of_arms["top1_raw_deviation"],
        "arm/parameters": of_arms["parameters"],
        "arm/gmacs": of_arms["macs"] / 1e9,
    }
    columns |= {f"{figure}/{device}": of_arms[speed_column(figure, device)] for device in devices for figure in SPEEDS}
    columns |= {f"run/{name}": runs[name] for name in ("minutes", "peak_memory_megabytes")}
    return pd.DataFrame(columns)
