"""Reads a study's folder: its plan, and a table of its runs.

``plan.json`` and ``runs/ARM/seed_S/`` are written by ``mobilemamba ablate``, ``record.json`` in a run by
``lightning fit``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.studies.runs import FAILURE
from lightning_modules.run_record import RunRecord
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError

EMA, RAW, LOSS = "val/top1_ema", "val/top1_raw", "train/loss"


@dataclass(frozen=True)
class ReportedArm:
    """One arm of the plan.

    Args:
        name: Name of the arm.
        description: Its purpose.
        group: Name of its group.
        overrides: Options in which it differs from the base arm, with dots in their names.
        network: Its architecture.
        image_size: Height and width in pixels.
    """

    name: str
    description: str
    group: str
    overrides: Mapping[str, Any]
    network: MobileMambaConfig
    image_size: tuple[int, int]


@dataclass(frozen=True)
class StudyResults:
    """A study and its runs.

    Args:
        name: Name of the study.
        base: Name of the arm that the others are compared with.
        seeds: Each arm has a run with each.
        arms: Arms in the order of the plan.
        runs: Result of :func:`run_table`.
        curves: Result of :func:`curve_table`.
    """

    name: str
    base: str
    seeds: tuple[int, ...]
    arms: tuple[ReportedArm, ...]
    runs: pd.DataFrame
    curves: pd.DataFrame

    @property
    def finished(self) -> pd.DataFrame:
        """The completed runs."""
        return self.runs[self.runs["state"] == "finished"]

    @property
    def validation_images(self) -> int | None:
        """Number of validation images; None if unknown or different between runs."""
        counts = self.finished["validation_images"]
        return int(counts.iloc[0]) if counts.notna().all() and counts.nunique() == 1 else None


def read_results(folder: Path) -> StudyResults:
    """Read a study's folder.

    Raises:
        UserError: When it is not a study, is from another version, has no finished run, or numbers of classes differ.
    """
    path = folder / "plan.json"
    if not path.is_file():
        raise UserError(f"{folder} must be a study's folder: it has no plan.json, which `mobilemamba ablate` writes.")
    try:
        plan = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    try:
        name, base, seeds = plan["name"], plan["base"], tuple(plan["seeds"])
        arms = tuple(_read_arm(path, arm) for arm in plan["arms"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is of another version: it lacks {error}.") from error
    if base not in [arm.name for arm in arms]:
        raise UserError(f"{path}: base = {base!r} must be one of its arms.")
    folders = {(arm.name, seed): folder / "runs" / arm.name / f"seed_{seed}" for arm in arms for seed in seeds}
    records = {run: RunRecord.read(path) for run, path in folders.items()}
    study = StudyResults(name, base, seeds, arms, run_table(folders, records), curve_table(records))
    classes = _number_of_classes(folder, study)
    # The number of classes comes from the data, not from the config.
    arms = tuple(replace(arm, network=replace(arm.network, num_classes=classes)) for arm in arms)
    return replace(study, arms=arms)


def run_table(
    folders: Mapping[tuple[str, int], Path], records: Mapping[tuple[str, int], RunRecord | None]
) -> pd.DataFrame:
    """Return a row for each run, with its results if it has finished.

    Args:
        folders: Folders of the runs, by arm and seed.
        records: Records of the runs; None before their first validation.

    Returns:
        Columns arm and seed; state: finished, unfinished, failed or not started; remark: why it has no accuracy, ""
        if it has one; top1_ema and top1_raw, of the averaged and the raw weights after the last epoch in percent; top1,
        of the averaged weights, or the raw ones without EMA; minutes, wall time of fit; peak_memory_megabytes, in 1e6
        bytes; peak_memory_of, trained_on, num_classes, validation_images.
    """
    rows = []
    for (arm, seed), folder in folders.items():
        record, failure = records[arm, seed], folder / FAILURE
        row: dict[str, Any] = {"arm": arm, "seed": seed}
        if record is not None and record.finished:
            ema, raw = record.metrics.get(EMA), record.metrics.get(RAW)
            row |= {
                "state": "finished",
                "remark": f"seed {seed} finished without a finite accuracy" if ema is None and raw is None else "",
                "top1_ema": None if ema is None else 100 * ema,
                "top1_raw": None if raw is None else 100 * raw,
                "minutes": record.seconds / 60,
                "peak_memory_megabytes": record.peak_memory_bytes / 1e6,
                "peak_memory_of": record.peak_memory_of,
                "trained_on": record.device,
                "num_classes": record.num_classes,
                "validation_images": record.validation_images,
            }
        elif failure.is_file():
            reason = " ".join(failure.read_text(errors="replace").split())
            row |= {"state": "failed", "remark": f"seed {seed} failed: {reason}"}
        elif record is not None:
            row |= {"state": "unfinished", "remark": f"seed {seed} unfinished: {record.epochs} epochs"}
        else:
            state = "unfinished" if folder.is_dir() else "not started"
            row |= {"state": state, "remark": f"seed {seed} {state}"}
        rows.append(row)
    columns = ["arm", "seed", "state", "remark", "top1_ema", "top1_raw", "minutes", "peak_memory_megabytes"]
    columns += ["peak_memory_of", "trained_on", "num_classes", "validation_images"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.astype(dict.fromkeys(("top1_ema", "top1_raw", "validation_images"), float))
    return table.assign(top1=table["top1_ema"].fillna(table["top1_raw"]))


def curve_table(records: Mapping[tuple[str, int], RunRecord | None]) -> pd.DataFrame:
    """Return a row for each validation of the finished runs.

    Args:
        records: Records of the runs, by arm and seed.

    Returns:
        Columns arm, seed, epoch, both accuracies in [0, 1] and the training loss in nats per image, the latter with
        their names in the records.
    """
    names = ("epoch", EMA, RAW, LOSS)
    rows = [
        (*run, *values)
        for run, record in records.items()
        if record is not None and record.finished
        for values in zip_longest(*(record.curves.get(name, ()) for name in names))
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", *names]).astype(dict.fromkeys(names, float))


def _read_arm(path: Path, arm: Mapping[str, Any]) -> ReportedArm:
    try:
        network = MobileMambaConfig(**arm["network"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is of another version: arm {arm['name']}: {error}") from error
    height, width = arm["image_size"]
    description, group = arm.get("description") or "", arm.get("group") or ""
    return ReportedArm(arm["name"], description, group, arm["overrides"], network, (height, width))


def _number_of_classes(folder: Path, study: StudyResults) -> int:
    """Return the number of classes of all runs, or raise an error if it differs."""
    first_arms = study.finished.groupby("num_classes")["arm"].first()
    if first_arms.empty:
        states = "; ".join(f"{run.arm}, {run.remark}" for run in study.runs.itertuples())
        raise UserError(f"No run in {folder} has finished ({states}): continue with `mobilemamba ablate`.")
    if len(first_arms) > 1:
        counts = ", ".join(f"{arm} {number:.0f}" for number, arm in first_arms.items())
        raise UserError(
            f"Arms in {folder} have different numbers of classes ({counts}): their accuracies cannot be compared. Make "
            "separate studies."
        )
    return int(first_arms.index[0])
