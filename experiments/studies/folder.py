"""A study's folder: its files, and a check that they belong to the same study.

study.yaml            the study as given
plan.json             its resolved arms
configs/ARM.yaml      every option of an arm
runs/ARM/seed_S/      a run of ``lightning fit``
report/               tables and pictures
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml

from experiments.studies.plan import Plan, differences
from experiments.studies.runs import Run
from mobilemamba.errors import UserError
from mobilemamba.files import write_json, write_text

Value = TypeVar("Value")

SHOWN_DIFFERENCES = 3


def make_runs(plan: Plan, folder: Path, arms: Sequence[str] | None, seeds: Sequence[int] | None) -> list[Run]:
    """Return the runs of a study, all arms with the first seed before any with the second.

    Args:
        plan: The study.
        folder: Its folder.
        arms: Names of the arms to run; None for all.
        seeds: Seeds to run; None for all.

    Raises:
        UserError: When the study has no such arm or seed.
    """
    chosen_arms = _chosen("--arms", arms, [planned.name for planned in plan.arms])
    return [
        Run(name, seed, folder / "runs" / name / f"seed_{seed}", config_path(folder, name))
        for seed in _chosen("--seeds", seeds, plan.study.seeds)
        for name in chosen_arms
    ]


def config_path(folder: Path, arm: str) -> Path:
    """Return the path of an arm's complete config."""
    return folder / "configs" / f"{arm}.yaml"


def check_unchanged(plan: Plan, folder: Path) -> None:
    """Check that the arms of existing runs have not changed.

    Raises:
        UserError: When an arm has changed; names the changes and the remedy.
    """
    for planned in plan.arms:
        path = config_path(folder, planned.name)
        runs = folder / "runs" / planned.name
        if not path.is_file() or not runs.is_dir() or not any(runs.iterdir()):
            continue
        changed = differences(yaml.safe_load(path.read_text()), planned.config)
        if changed:
            shown = [f"{name} was {old!r} and is {new!r}" for name, (old, new) in changed.items()]
            more = len(shown) - SHOWN_DIFFERENCES
            raise UserError(
                f"arms.{planned.name} has changed since its runs in {runs}: {'; '.join(shown[:SHOWN_DIFFERENCES])}"
                f"{f'; and {more} more' if more > 0 else ''}. Choose another --output for the changed study, or delete "
                f"{runs} to run this arm again."
            )


def write_plan(plan: Plan, source: Path, folder: Path) -> None:
    """Write study.yaml, plan.json and the config of every arm, each whole or not at all.

    Args:
        plan: The study.
        source: The study's file.
        folder: Its folder.
    """
    for planned in plan.arms:
        head = f"# Every option of the arm {planned.name} but its seed and folder.\n"
        write_text(config_path(folder, planned.name), head + yaml.safe_dump(dict(planned.config), sort_keys=False))
    text = source.read_text()
    write_text(folder / "study.yaml", text if "name" in yaml.safe_load(text) else f"name: {plan.study.name}\n{text}")
    write_json(folder / "plan.json", plan.to_json())


def _chosen(option: str, given: Sequence[Value] | None, known: Sequence[Value]) -> list[Value]:
    for value in given or ():
        if value not in known:
            raise UserError(f"{option} {value} is not in the study: use some of {', '.join(map(str, known))}.")
    return [value for value in known if given is None or value in given]
