"""The table of a study's arms, with all numbers that report, pictures and TensorBoard show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.studies.report.paired import paired_differences
from experiments.studies.report.results import StudyResults
from mobilemamba.backbone import MobileMamba
from mobilemamba.complexity import Complexity, complexity

SPEEDS = ("images_per_second", "latency_milliseconds")


def arm_table(study: StudyResults, speeds: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row for each arm, in the order of the plan; accuracies in percent, over its finished runs.

    Args:
        study: The study.
        speeds: Measured speeds by device, as :func:`experiments.studies.report.speed.read_speeds` returns them.

    Returns:
        By name of the arm: group; base, whether the others are compared with it; finished_runs and planned_runs; mean
        and standard deviation of top1_ema and top1_raw; the columns of
        :func:`experiments.studies.report.paired.paired_differences` for averaged weights (raw ones without EMA);
        parameters; macs for one image, including the scan's; peak_memory_megabytes, the largest of all runs;
        peak_memory_of; minutes, the mean wall time of fit; trained_on; speeds in the columns of :func:`speed_column`;
        overrides; runs_without_result, a remark on each. Unknown numbers are missing.
    """
    finished = study.finished.groupby("arm")
    index = pd.Index([arm.name for arm in study.arms], name="arm")
    table = pd.DataFrame({"group": [arm.group for arm in study.arms], "base": index == study.base}, index)
    table["finished_runs"] = finished.size().reindex(index, fill_value=0)
    table["planned_runs"] = len(study.seeds)
    for name in ("top1_ema", "top1_raw"):
        table[f"{name}_mean"], table[f"{name}_deviation"] = finished[name].mean(), finished[name].std()
    by_seed = study.finished.pivot(index="seed", columns="arm", values="top1").reindex(columns=index)
    table = table.join(paired_differences(by_seed, study.base).astype({"pairs": "Int64"}))
    costs: dict[Any, Complexity] = {}
    for arm in study.arms:
        key = (arm.network, arm.image_size)
        if key not in costs:  # arms may have the same network
            costs[key] = complexity(MobileMamba(arm.network), arm.image_size)
    found = [costs[arm.network, arm.image_size] for arm in study.arms]
    table["parameters"], table["macs"] = [cost.parameters for cost in found], [cost.total_macs for cost in found]
    table["peak_memory_megabytes"] = finished["peak_memory_megabytes"].max().replace(0.0, float("nan"))
    table["peak_memory_of"] = finished["peak_memory_of"].agg(_names).reindex(index, fill_value="")
    table["minutes"] = finished["minutes"].mean()
    table["trained_on"] = finished["trained_on"].agg(_names).reindex(index, fill_value="")
    for device, measured in speeds.items():
        for figure in SPEEDS:
            table[speed_column(figure, device)] = measured[figure]
    overrides = [{name: in_words(value) for name, value in arm.overrides.items()} for arm in study.arms]
    table["overrides"] = [" ".join(f"{name}={value}" for name, value in given.items()) for given in overrides]
    remarks = study.runs[study.runs["remark"] != ""].groupby("arm")["remark"]
    table["runs_without_result"] = remarks.agg("; ".join).reindex(index, fill_value="")
    return table


def speed_column(figure: str, device: str) -> str:
    """Return the column of one of SPEEDS on a device."""
    return f"{figure} ({device})"


def _names(names: pd.Series) -> str:
    return ", ".join(sorted(set(names)))


def in_words(value: Any) -> str:
    """Return an option's value as text, with lists and null as JSON."""
    return str(value) if isinstance(value, str | int | float | bool) else json.dumps(value)
