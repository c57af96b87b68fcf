"""What a study's folder holds: its plan, and how far each run has come.

``plan.json`` and ``runs/ARM/seed_S/`` are written by ``mobilemamba ablate``, ``record.json`` in a run by
``lightning fit``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from experiments.studies.runs import FAILURE
from lightning_modules.run_record import RunRecord
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError

State = Literal["finished", "unfinished", "failed", "not started"]

EMA, RAW = "val/top1_ema", "val/top1_raw"


@dataclass(frozen=True)
class RunOutcome:
    """One arm with one seed.

    Args:
        seed: The seed.
        state: How far it has come.
        record: What it says of itself; None before its first validation.
        reason: Why it failed, or how far it has come.
    """

    seed: int
    state: State
    record: RunRecord | None = None
    reason: str = ""

    def top1(self, metric: str) -> float | None:
        """Return an accuracy of the last validation in percent; None where there is none."""
        value = None if self.record is None else self.record.metrics.get(metric)
        return None if value is None else 100 * value

    @property
    def deployed_top1(self) -> float | None:
        """Accuracy in percent of the weights that one would deploy: averaged ones, raw ones in a run without."""
        averaged = self.top1(EMA)
        return self.top1(RAW) if averaged is None else averaged


@dataclass(frozen=True)
class ArmOutcome:
    """One arm with all its seeds.

    Args:
        name: Of the arm.
        description: What it is for.
        group: Arms that belong together.
        overrides: Options in which it differs from the base config.
        network: Its architecture.
        image_size: Height and width in pixels.
        runs: One for each seed.
    """

    name: str
    description: str
    group: str
    overrides: Mapping[str, Any]
    network: MobileMambaConfig
    image_size: tuple[int, int]
    runs: tuple[RunOutcome, ...]

    @property
    def finished(self) -> list[RunOutcome]:
        """The runs that have ended by themselves."""
        return [run for run in self.runs if run.state == "finished"]

    @property
    def records(self) -> list[RunRecord]:
        """What the finished runs say of themselves."""
        return [run.record for run in self.finished if run.record is not None]


@dataclass(frozen=True)
class StudyOutcome:
    """A study.

    Args:
        name: Of the study.
        base: Name of the arm that the others are compared with.
        seeds: Each arm has a run with each.
        arms: In the order of the plan.
    """

    name: str
    base: str
    seeds: tuple[int, ...]
    arms: tuple[ArmOutcome, ...]

    @property
    def base_arm(self) -> ArmOutcome:
        """The arm that the others are compared with."""
        return next(arm for arm in self.arms if arm.name == self.base)

    @property
    def validation_images(self) -> int | None:
        """How many images the accuracies are of; None where that is not known, or differs between runs."""
        counts = {record.validation_images for arm in self.arms for record in arm.records}
        return counts.pop() if len(counts) == 1 else None


def read_study(folder: Path) -> StudyOutcome:
    """Read a study's folder.

    Raises:
        UserError: When it is none, is of another version, has no finished run, or its arms tell apart different
            numbers of classes.
    """
    plan = _read_plan(folder)
    try:
        study = StudyOutcome(
            plan["name"],
            plan["base"],
            tuple(plan["seeds"]),
            tuple(_read_arm(folder, arm, plan["seeds"]) for arm in plan["arms"]),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / 'plan.json'} is of another version: it lacks {error}.") from error
    classes = _check_study(folder, study)
    # A run takes its number of classes from its data, whatever its config says.
    arms = (replace(arm, network=replace(arm.network, num_classes=classes)) for arm in study.arms)
    return replace(study, arms=tuple(arms))


def _read_plan(folder: Path) -> Mapping[str, Any]:
    path = folder / "plan.json"
    if not path.is_file():
        raise UserError(f"{folder} is no study's folder: it holds no plan.json, which `mobilemamba ablate` writes.")
    plan = _read_json(path)
    if not isinstance(plan, dict):
        raise UserError(f"{path} is of another version: it holds no plan.")
    return plan


def _read_arm(folder: Path, arm: Mapping[str, Any], seeds: list[int]) -> ArmOutcome:
    try:
        network = MobileMambaConfig(**arm["network"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'plan.json'} is of another version: arm {arm['name']}: {error}") from error
    height, width = arm["image_size"]
    return ArmOutcome(
        arm["name"],
        arm.get("description") or "",
        arm.get("group") or "",
        arm["overrides"],
        network,
        (height, width),
        tuple(_read_run(folder / "runs" / arm["name"] / f"seed_{seed}", seed) for seed in seeds),
    )


def _read_run(folder: Path, seed: int) -> RunOutcome:
    record, failure = RunRecord.read(folder), folder / FAILURE
    if record is not None and record.finished:
        return RunOutcome(seed, "finished", record)
    if failure.is_file():
        return RunOutcome(seed, "failed", record, " ".join(failure.read_text(errors="replace").split()))
    if record is not None:
        return RunOutcome(seed, "unfinished", record, f"{record.epochs} epochs")
    return RunOutcome(seed, "unfinished" if folder.is_dir() else "not started")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _check_study(folder: Path, study: StudyOutcome) -> int:
    """Refuse what cannot be compared; return the number of classes that all runs tell apart."""
    if study.base not in [arm.name for arm in study.arms]:
        raise UserError(f"{folder / 'plan.json'} names {study.base!r} as base, which is none of its arms.")
    classes = {record.num_classes: arm.name for arm in study.arms for record in arm.records}
    if not classes:
        states = [
            f"{arm.name} seed {run.seed}: {run.state} {run.reason}".strip() for arm in study.arms for run in arm.runs
        ]
        raise UserError(f"No run in {folder} has finished ({'; '.join(states)}): go on with `mobilemamba ablate`.")
    if len(classes) > 1:
        counts = ", ".join(f"{name} {number}" for number, name in sorted(classes.items()))
        raise UserError(
            f"Arms in {folder} tell apart different numbers of classes ({counts}): their accuracies cannot be "
            "compared. Make a study of each."
        )
    return next(iter(classes))
