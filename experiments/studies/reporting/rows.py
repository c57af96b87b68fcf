"""The rows of a report: every figure that table, pictures and TensorBoard show is computed here, once."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.studies.reporting.outcomes import EMA, RAW, ArmOutcome, RunOutcome, StudyOutcome
from experiments.studies.reporting.paired import PairedDifference, corrected, paired_difference
from experiments.studies.reporting.speed import DeviceSpeeds, Speed
from mobilemamba.backbone import MobileMamba
from mobilemamba.complexity import Complexity, complexity


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds.

    Args:
        mean: Mean.
        deviation: Standard deviation of the sample; None for a single value.
        count: How many values.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class ArmRow:
    """All figures of one arm; accuracies in percent, over its finished runs.

    Args:
        name: Of the arm.
        description: What it is for.
        group: Arms that belong together.
        overrides: Options in which it differs from the base config, flat, with dots in their names.
        is_base: Whether the others are compared with it.
        finished: Number of finished runs.
        planned: Number of runs in the plan.
        remarks: On each run that has not finished, or has no accuracy.
        top1_ema: Of the averaged weights; None where no run has a figure.
        top1_raw: Of the raw weights.
        difference: From the base, of the deployed weights; None for the base, and without seeds in common.
        parameters: Of the network.
        macs: For one image, the scan's included.
        speeds: By device, those that were measured.
        peak_memory_megabytes: Most that any run used, in 1e6 bytes.
        peak_memory_of: By what: the process, or CUDA's allocator.
        minutes: Mean wall time of fit.
        trained_on: Devices that the runs were trained on.
    """

    name: str
    description: str
    group: str
    overrides: Mapping[str, str | int | float | bool]
    is_base: bool
    finished: int
    planned: int
    remarks: tuple[str, ...]
    top1_ema: Spread | None
    top1_raw: Spread | None
    difference: PairedDifference | None
    parameters: int
    macs: int
    speeds: Mapping[str, Speed]
    peak_memory_megabytes: float | None
    peak_memory_of: str
    minutes: float | None
    trained_on: str

    @property
    def deployed_top1(self) -> Spread | None:
        """Accuracy of the weights that one would deploy: averaged ones, raw ones in an arm without."""
        return self.top1_ema or self.top1_raw


@dataclass(frozen=True)
class RunRow:
    """The figures of one finished run; accuracies in percent.

    Args:
        arm: Its arm's name.
        seed: Its seed.
        top1_ema: Of the averaged weights.
        top1_raw: Of the raw weights.
        minutes: Wall time of fit.
        peak_memory_megabytes: In 1e6 bytes.
    """

    arm: str
    seed: int
    top1_ema: float | None
    top1_raw: float | None
    minutes: float
    peak_memory_megabytes: float


def arm_rows(study: StudyOutcome, devices: Sequence[DeviceSpeeds]) -> list[ArmRow]:
    """Return a row for each arm, in the order of the plan.

    Args:
        study: The study.
        devices: What was measured of its networks.
    """
    base = _deployed_by_seed(study.base_arm)
    found = {arm.name: paired_difference(_deployed_by_seed(arm), base) for arm in study.arms if arm.name != study.base}
    named = {name: difference for name, difference in found.items() if difference is not None}
    differences = dict(zip(named, corrected(list(named.values())), strict=True))
    costs: dict[Any, Complexity] = {}
    return [_arm_row(arm, study, differences.get(arm.name), devices, costs) for arm in study.arms]


def run_rows(study: StudyOutcome) -> list[RunRow]:
    """Return a row for each finished run."""
    return [
        RunRow(
            arm.name,
            run.seed,
            run.top1(EMA),
            run.top1(RAW),
            run.record.seconds / 60,
            run.record.peak_memory_bytes / 1e6,
        )
        for arm in study.arms
        for run in arm.finished
        if run.record is not None
    ]


def flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Return nested options as one level, with dots in their names; lists and null as JSON."""
    result: dict[str, str | int | float | bool] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{name}.")
        else:
            result[prefix + name] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return result


def _arm_row(
    arm: ArmOutcome,
    study: StudyOutcome,
    difference: PairedDifference | None,
    devices: Sequence[DeviceSpeeds],
    costs: dict[Any, Complexity],
) -> ArmRow:
    key = (arm.network, arm.image_size)
    if key not in costs:  # arms of a study on training share their network
        costs[key] = complexity(MobileMamba(arm.network), arm.image_size)
    records = arm.records
    return ArmRow(
        name=arm.name,
        description=arm.description,
        group=arm.group,
        overrides=flat(arm.overrides),
        is_base=arm.name == study.base,
        finished=len(records),
        planned=len(arm.runs),
        remarks=tuple(remark for run in arm.runs if (remark := _remark(run))),
        top1_ema=_spread([run.top1(EMA) for run in arm.finished]),
        top1_raw=_spread([run.top1(RAW) for run in arm.finished]),
        difference=difference,
        parameters=costs[key].parameters,
        macs=costs[key].total_macs,
        speeds={device.device: device.speeds[arm.name] for device in devices if arm.name in device.speeds},
        peak_memory_megabytes=max((record.peak_memory_bytes for record in records), default=0) / 1e6 or None,
        peak_memory_of=", ".join(sorted({record.peak_memory_of for record in records})),
        minutes=statistics.fmean(record.seconds for record in records) / 60 if records else None,
        trained_on=", ".join(sorted({record.device for record in records})),
    )


def _remark(run: RunOutcome) -> str:
    """Return what is to be said of a run that has no accuracy to compare; "" for others."""
    if run.state != "finished":
        return f"seed {run.seed} {run.state}{f': {run.reason}' if run.reason else ''}"
    return f"seed {run.seed} finished without a finite accuracy" if run.deployed_top1 is None else ""


def _deployed_by_seed(arm: ArmOutcome) -> dict[int, float]:
    return {run.seed: run.deployed_top1 for run in arm.finished if run.deployed_top1 is not None}


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    deviation = statistics.stdev(known) if len(known) > 1 else None
    return Spread(math.fsum(known) / len(known), deviation, len(known))
