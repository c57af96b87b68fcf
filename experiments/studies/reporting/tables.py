"""The report as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.studies.reporting.outcomes import StudyOutcome
from experiments.studies.reporting.paired import CONFIDENCE, PairedDifference
from experiments.studies.reporting.rows import ArmRow, RunRow, Spread
from mobilemamba.tables import table

UNKNOWN = "-"


def markdown(study: StudyOutcome, rows: Sequence[ArmRow], devices: Sequence[str], pictures: Sequence[str]) -> str:
    """Return the report.

    Args:
        study: The study.
        rows: Of its arms.
        devices: That speed was measured on.
        pictures: File names, beside the report.
    """
    parts = [
        f"# Study {study.name}",
        _summary(study, rows),
        table(_header(devices), [_cells(row, devices) for row in rows]),
        _legend(rows, devices),
        f"## Differences from {study.base}",
        _reading(study, rows),
        table(
            ("arm", "pairs", "difference, points", f"{CONFIDENCE:.0%} interval", "verdict"),
            [_difference_cells(row) for row in rows if not row.is_base],
        ),
    ]
    remarks = [f"- {row.name}: {remark}" for row in rows for remark in row.remarks]
    if remarks:
        parts += ["## Runs without a result", "\n".join(remarks)]
    described = [f"- {row.name}: {row.description}" for row in rows if row.description]
    if described:
        parts += ["## Arms", "\n".join(described)]
    parts += [f"![{Path(picture).stem.replace('_', ' ')}]({picture})" for picture in pictures]
    parts.append(
        "The same figures for each run in TensorBoard, tab HPARAMS: `tensorboard --logdir hparams` in this folder."
    )
    return "\n\n".join(parts) + "\n"


def arms_csv(rows: Sequence[ArmRow], devices: Sequence[str]) -> str:
    """Return the table of arms as CSV, figures as they are; accuracies in percent."""
    header = [
        *("arm", "group", "base", "finished_runs", "planned_runs"),
        *("top1_ema_mean", "top1_ema_deviation", "top1_raw_mean", "top1_raw_deviation"),
        *("difference", "difference_low", "difference_high", "pairs", "p_value", "holm_p_value", "verdict"),
        *("parameters", "macs", "peak_memory_megabytes", "peak_memory_of", "minutes", "trained_on"),
        *(f"{figure} ({device})" for device in devices for figure in ("images_per_second", "latency_milliseconds")),
        *("overrides", "runs_without_result"),
    ]
    return _csv(header, [_csv_cells(row, devices) for row in rows])


def runs_csv(rows: Sequence[RunRow]) -> str:
    """Return the table of finished runs as CSV; accuracies in percent."""
    header = ["arm", "seed", "top1_ema", "top1_raw", "minutes", "peak_memory_megabytes"]
    return _csv(
        header,
        [[row.arm, row.seed, row.top1_ema, row.top1_raw, row.minutes, row.peak_memory_megabytes] for row in rows],
    )


def _summary(study: StudyOutcome, rows: Sequence[ArmRow]) -> str:
    finished, planned = sum(row.finished for row in rows), sum(row.planned for row in rows)
    seeds = ", ".join(map(str, study.seeds))
    return (
        f"{len(rows)} arms with {'seed' if len(study.seeds) == 1 else 'seeds'} {seeds}: {finished} of {planned} runs "
        "have finished. Accuracies are top-1 in percent on the validation data after the last epoch: mean ± standard "
        "deviation over the seeds."
    )


def _header(devices: Sequence[str]) -> list[str]:
    speed = [f"{unit} [{number}]" for number in range(1, len(devices) + 1) for unit in ("images/s", "ms")]
    accuracy = ["arm", "runs", "EMA", "raw", "to base"]
    return [*accuracy, "parameters, M", "GMACs", *speed, "peak memory, MB", "minutes"]


def _cells(row: ArmRow, devices: Sequence[str]) -> list[str]:
    speeds = [row.speeds.get(device) for device in devices]
    return [
        row.name,
        f"{row.finished} of {row.planned}",
        _format_spread(row.top1_ema, row.finished),
        _format_spread(row.top1_raw, row.finished),
        "base" if row.is_base else _format_mean(row.difference),
        f"{row.parameters / 1e6:.3f}",
        f"{row.macs / 1e9:#.3g}",
        *(
            text
            for speed in speeds
            for text in ((UNKNOWN, UNKNOWN) if speed is None else (f"{speed.throughput:.1f}", f"{speed.latency:.2f}"))
        ),
        UNKNOWN if row.peak_memory_megabytes is None else f"{row.peak_memory_megabytes:.0f}",
        UNKNOWN if row.minutes is None else f"{row.minutes:.1f}",
    ]


def _legend(rows: Sequence[ArmRow], devices: Sequence[str]) -> str:
    memory = " or ".join(sorted({row.peak_memory_of for row in rows if row.peak_memory_of}))
    trained = "; ".join(sorted({row.trained_on for row in rows if row.trained_on}))
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


def _reading(study: StudyOutcome, rows: Sequence[ArmRow]) -> str:
    tested = sum(row.difference is not None and row.difference.interval is not None for row in rows)
    sentences = [
        "Differences are paired by seed. The interval is Student's t over the seeds; with one seed there is none. An "
        "interval that contains zero means: not distinguishable from zero with these runs. That is not the same as "
        "alike."
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


def _difference_cells(row: ArmRow) -> list[str]:
    difference = row.difference
    if difference is None:
        return [row.name, "0", UNKNOWN, UNKNOWN, "no finished run with a seed of the base"]
    interval = UNKNOWN
    if difference.interval is not None:
        interval = " to ".join(f"{end:+.2f}" for end in difference.interval)
    return [row.name, str(difference.pairs), _format_mean(difference), interval, difference.verdict]


def _format_mean(difference: PairedDifference | None) -> str:
    return UNKNOWN if difference is None else f"{difference.mean:+.2f}"


def _format_spread(spread: Spread | None, finished: int) -> str:
    if spread is None:
        return UNKNOWN
    text = f"{spread.mean:.2f}" if spread.deviation is None else f"{spread.mean:.2f} ± {spread.deviation:.2f}"
    return text if spread.count == finished else f"{text} ({spread.count} of them)"


def _csv_cells(row: ArmRow, devices: Sequence[str]) -> list[Any]:
    difference = row.difference
    low, high = (difference.interval if difference else None) or (None, None)
    accuracies = [
        figure
        for spread in (row.top1_ema, row.top1_raw)
        for figure in ((None, None) if spread is None else (spread.mean, spread.deviation))
    ]
    compared = [difference.mean, low, high, difference.pairs] if difference else [None] * 4
    tested = [difference.p_value, difference.holm_p_value, difference.verdict] if difference else [None] * 3
    speeds = [row.speeds.get(device) for device in devices]
    return [
        *(row.name, row.group, row.is_base, row.finished, row.planned),
        *accuracies,
        *compared,
        *tested,
        *(row.parameters, row.macs, row.peak_memory_megabytes, row.peak_memory_of, row.minutes, row.trained_on),
        *(
            figure
            for speed in speeds
            for figure in ((None, None) if speed is None else (speed.throughput, speed.latency))
        ),
        " ".join(f"{name}={value}" for name, value in row.overrides.items()),
        "; ".join(row.remarks),
    ]


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()
