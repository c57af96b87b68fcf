"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.studies.report.arms import SPEEDS, speed_column
from experiments.studies.report.paired import CONFIDENCE
from experiments.studies.report.results import StudyResults
from mobilemamba.tables import table

UNKNOWN = "-"


def markdown(study: StudyResults, arms: pd.DataFrame, devices: Sequence[str], pictures: Sequence[str]) -> str:
    """Return the report.

    Args:
        study: The study.
        arms: The table of its arms.
        devices: Devices of the speeds.
        pictures: File names, beside the report.
    """
    parts = [
        f"# Study {study.name}",
        _summary(study, arms),
        _arms(study, arms, devices),
        _legend(arms, devices),
        f"## Differences from {study.base}",
        _reading(study, arms),
        _differences(arms[~arms["base"]]),
    ]
    remarks = [f"- {run.arm}: {run.remark}" for run in study.runs.itertuples() if run.remark]
    if remarks:
        parts += ["## Runs without a result", "\n".join(remarks)]
    described = [f"- {arm.name}: {arm.description}" for arm in study.arms if arm.description]
    if described:
        parts += ["## Arms", "\n".join(described)]
    parts += [f"![{Path(picture).stem.replace('_', ' ')}]({picture})" for picture in pictures]
    parts.append(
        "The same figures for each run in TensorBoard, tab HPARAMS: `tensorboard --logdir hparams` in this folder."
    )
    return "\n\n".join(parts) + "\n"


def _summary(study: StudyResults, arms: pd.DataFrame) -> str:
    seeds = ", ".join(map(str, study.seeds))
    return (
        f"{len(arms)} arms with {'seed' if len(study.seeds) == 1 else 'seeds'} {seeds}: {len(study.finished)} of "
        f"{len(study.runs)} runs have finished. Accuracies are top-1 in percent on the validation data after the last "
        "epoch: mean ± standard deviation over the seeds."
    )


def _arms(study: StudyResults, arms: pd.DataFrame, devices: Sequence[str]) -> str:
    columns = {
        "arm": list(arms.index),
        "runs": [f"{arm.finished_runs} of {arm.planned_runs}" for arm in arms.itertuples()],
        "EMA": _spreads(study, arms, "top1_ema"),
        "raw": _spreads(study, arms, "top1_raw"),
        "to base": _texts(arms["difference"], "{:+.2f}"),
        "parameters, M": _texts(arms["parameters"] / 1e6, "{:.3f}"),
        "GMACs": _texts(arms["macs"] / 1e9, "{:#.3g}"),
    }
    columns["to base"][list(arms.index).index(study.base)] = "base"
    for number, device in enumerate(devices, start=1):
        for figure, unit, pattern in zip(SPEEDS, ("images/s", "ms"), ("{:.1f}", "{:.2f}"), strict=True):
            columns[f"{unit} [{number}]"] = _texts(arms[speed_column(figure, device)], pattern)
    columns["peak memory, MB"] = _texts(arms["peak_memory_megabytes"], "{:.0f}")
    columns["minutes"] = _texts(arms["minutes"], "{:.1f}")
    return _table(columns)


def _legend(arms: pd.DataFrame, devices: Sequence[str]) -> str:
    memory = " or ".join(sorted(set(arms["peak_memory_of"]) - {""}))
    trained = "; ".join(sorted(set(arms["trained_on"]) - {""}))
    lines = [
        '"To base" is the mean difference from the base arm in points, of the averaged (EMA) weights, or of the raw '
        f"ones in an arm without. Peak memory is that of the {memory}, the most of any run. Minutes are the mean wall "
        f"time of `lightning fit`, on {trained}. MACs include the scan's."
    ]
    for number, device in enumerate(devices, start=1):
        lines.append(f"[{number}] {device}; fused networks, all arms in turn in one process, medians.")
    if not devices:
        lines.append("Speed was not measured.")
    return "\n\n".join(lines)


def _reading(study: StudyResults, arms: pd.DataFrame) -> str:
    tested = arms["p_value"].count()
    sentences = [
        "Differences are paired by seed. The interval is Student's t over the seeds; with one seed there is none. An "
        "interval that contains zero means: not distinguishable from zero with these runs. It does not mean equal."
    ]
    if tested > 1:
        sentences.append(
            f"With {tested} arms compared, some intervals miss the truth by chance: a difference counts only where "
            f"its p-value, corrected by Holm's method, is at most {1 - CONFIDENCE:.2g}."
        )
    images = study.validation_images
    if images is not None:
        sentences.append(f"One of the {images:,} validation images is {100 / images:.3g} points.")
    return " ".join(sentences)


def _differences(arms: pd.DataFrame) -> str:
    ends = zip(_texts(arms["difference_low"], "{:+.2f}"), _texts(arms["difference_high"], "{:+.2f}"), strict=True)
    return _table(
        {
            "arm": list(arms.index),
            "pairs": _texts(arms["pairs"], "{}", "0"),
            "difference, points": _texts(arms["difference"], "{:+.2f}"),
            f"{CONFIDENCE:.0%} interval": [low if low == UNKNOWN else f"{low} to {high}" for low, high in ends],
            "verdict": _texts(arms["verdict"], "{}", "no finished run with a seed of the base"),
        }
    )


def _spreads(study: StudyResults, arms: pd.DataFrame, name: str) -> list[str]:
    """Return mean and standard deviation of an accuracy, and the number of runs if some have none."""
    counts = study.finished.groupby("arm")[name].count()
    means, deviations = _texts(arms[f"{name}_mean"], "{:.2f}"), _texts(arms[f"{name}_deviation"], " ± {:.2f}", "")
    texts = []
    for arm, finished, mean, deviation in zip(arms.index, arms["finished_runs"], means, deviations, strict=True):
        some = mean != UNKNOWN and counts[arm] < finished
        texts.append(f"{mean}{deviation}{f' ({counts[arm]} of them)' if some else ''}")
    return texts


def _texts(values: pd.Series, pattern: str, missing: str = UNKNOWN) -> list[str]:
    return [missing if pd.isna(value) else pattern.format(value) for value in values]


def _table(columns: dict[str, list[str]]) -> str:
    return table(list(columns), list(zip(*columns.values(), strict=True)))
