"""Resolves a study to every arm's complete config, and checks it before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import combinations, product
from typing import Any

from experiments.studies.definition import TAKEN, Arm, Layer, Study, flatten
from mobilemamba.errors import UserError

SETTINGS: Mapping[str, Any] = {
    "enable.record": True,
    "enable.last_checkpoint": True,
    # Runs resume from their last finished epoch.
    "enable.interrupt": False,
    "trainer.enable_progress_bar": False,
}
"""Options of every run, which override the configs: a study needs them to resume and to report."""

RUN_FOLDERS = ("last_checkpoint.dirpath", "best_checkpoint.dirpath", "export.folder")
"""Options whose default, null, is a folder inside the run's folder."""


@dataclass(frozen=True)
class PlannedArm:
    """A resolved arm.

    Args:
        arm: The arm in the study.
        config: Every option of ``lightning fit`` except those that differ between the runs of an arm.
        network: Every field of the MobileMambaConfig.
        image_size: Height and width in pixels.
        num_classes: Classes of the data.
        parameters: Parameters of the network.
        missing_data: An error message if the data are missing, otherwise "".
    """

    arm: Arm
    config: Mapping[str, Any]
    network: Mapping[str, Any]
    image_size: tuple[int, int]
    num_classes: int
    parameters: int
    missing_data: str = ""

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.arm.name


@dataclass(frozen=True)
class Plan:
    """A study with all arms resolved.

    Args:
        study: The study.
        arms: Its arms in the same order.
    """

    study: Study
    arms: tuple[PlannedArm, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the content of plan.json."""
        base = next(planned for planned in self.arms if planned.name == self.study.compare_with)
        return {
            "name": self.study.name,
            "base": self.study.compare_with,
            "seeds": list(self.study.seeds),
            "arms": [
                {
                    "name": planned.name,
                    "description": planned.arm.description,
                    "group": planned.arm.group,
                    "configs": [path.name for path in planned.arm.layer.configs],
                    # From files and overrides alike.
                    "overrides": flatten(
                        {name: value for name, (_, value) in differences(base.config, planned.config).items()},
                        f"arms.{planned.name}",
                    ),
                    "network": dict(planned.network),
                    "image_size": list(planned.image_size),
                }
                for planned in self.arms
            ],
        }


def make_plan(study: Study, extra: Layer) -> Plan:
    """Resolve all arms, in one process, and check them.

    Args:
        study: The study.
        extra: Another layer for all arms, such as a smaller scale. It overrides the study's base and the files of the
            arms, but not the overrides of an arm.

    Raises:
        UserError: When a config is missing, an override unknown, an arm invalid, two arms are equal, their numbers of
            classes differ, or runs would write the same files.
    """
    named = [("base.configs", study.base), *((f"arms.{arm.name}.configs", arm.layer) for arm in study.arms)]
    for where, layer in (*named, ("--config", extra)):
        for path in layer.configs:
            if not path.is_file():
                raise UserError(
                    f"{where} = {path} must be an existing file: check the path, relative to the study's file."
                )
    base, *answers = resolve([_arguments(study, extra, arm) for arm in (None, *study.arms)])
    if "error" in base:
        files_alone = _arguments(replace(study, base=Layer(study.base.configs)), Layer(extra.configs), None)
        known = resolve([files_alone])[0].get("options", ())
        given = {**study.base.overrides, **extra.overrides}
        raise UserError(f"The base of {study.name} is not possible: {_problem(given, known, base['error'])}")
    arms = []
    for arm, answer in zip(study.arms, answers, strict=True):
        if "error" in answer:
            raise UserError(f"arms.{arm.name}: {_problem(arm.layer.overrides, base['options'], answer['error'])}")
        arms.append(_planned(arm, answer))
    _check_arms(arms)
    return Plan(study, tuple(arms))


def resolve(requests: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Resolve arguments of ``lightning fit`` by :mod:`lightning_modules.resolve`."""
    from lightning_modules.resolve import FitParser  # slow to import
    from lightning_modules.warnings_filter import hide_known_warnings

    hide_known_warnings()
    parser = FitParser()
    return [parser.resolve(list(arguments)) for arguments in requests]


def fit_options(overrides: Mapping[str, Any]) -> list[str]:
    """Return overrides as options of a command line."""
    # Text is passed unchanged, everything else as JSON, which is valid YAML.
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in overrides.items()]


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the different values of two nested configs by dotted names; None for a missing value."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*before, *(key for key in after if key not in before)]:
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found |= differences(one, other, f"{prefix}{key}.")
        elif one != other or (key in before) != (key in after):
            found[f"{prefix}{key}"] = (one, other)
    return found


def _arguments(study: Study, extra: Layer, arm: Arm | None) -> list[str]:
    layers = [study.base, Layer(overrides=study.budget)]
    # An arm's files describe it at full scale; its overrides are the subject of the study.
    layers += [] if arm is None else [Layer(arm.layer.configs)]
    layers += [extra]
    layers += [] if arm is None else [Layer(overrides=arm.layer.overrides)]
    layers += [Layer(overrides=SETTINGS)]
    arguments: list[str] = []
    for layer in layers:
        for path in layer.configs:
            arguments += ["--config", str(path)]
        arguments += fit_options(layer.overrides)
    return arguments


def _problem(overrides: Mapping[str, Any], known: Sequence[str], error: str) -> str:
    """Return the error of a layer: an unknown option with the nearest one, or the parser's message."""
    for name in overrides:
        # If the name is known, its value was wrong.
        if known and name not in known and not any(option.startswith(f"{name}.") for option in known):
            nearest = get_close_matches(name, known, n=1, cutoff=0.0)[0]
            return f"unknown override {name}: did you mean {nearest}?"
    return error.strip()


def _planned(arm: Arm, answer: Mapping[str, Any]) -> PlannedArm:
    config = {name: value for name, value in answer["config"].items() if name not in TAKEN}
    data = dict(config["data"])
    data["init_args"] = {name: value for name, value in data["init_args"].items() if name != "seed"}
    height, width = answer["image_size"]
    return PlannedArm(
        arm,
        config | {"data": data},
        answer["network"],
        (height, width),
        answer["num_classes"],
        answer["parameters"],
        answer["missing_data"],
    )


def _check_arms(arms: Sequence[PlannedArm]) -> None:
    for one, other in combinations(arms, 2):
        if one.config == other.config:
            raise UserError(
                f"arms.{one.name} and arms.{other.name} must differ: every option has the same value in both. Change "
                "or remove one."
            )
        if one.num_classes != other.num_classes:
            raise UserError(
                f"arms.{other.name} has data.num_classes = {other.num_classes}, but arms.{one.name} has "
                f"{one.num_classes}: their accuracies cannot be compared; give all arms the same data."
            )
    for planned, option in product(arms, RUN_FOLDERS):
        section, _, name = option.partition(".")
        value = (planned.config.get(section) or {}).get(name)
        if value is not None:
            raise UserError(
                f"arms.{planned.name}: {option} = {value} must be left out, since all its runs would write the same "
                "files into it."
            )
