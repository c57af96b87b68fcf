"""A study as defined by its YAML file: a base, named arms, seeds and a budget.

name: stages
base:
  configs: [three_stage.yaml]          # relative to the study's file
  overrides: {model.teacher: null}
compare_with: three_stage
arms:
  three_stage:
    description: three stages behind a stride-16 stem
  without_scan:
    description: the wavelet branch alone
    group: global part
    configs: []
    overrides:
      model.network.scan: false        # or nested, as in a config
seeds: [0, 1, 2]
budget: {epochs: 300, hours: null}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from mobilemamba.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names must be valid folder names."""

TAKEN = ("run", "seed_everything", "data.seed", "data.init_args.seed", "ckpt_path")
"""Options that the study sets itself."""


@dataclass(frozen=True)
class Layer:
    """A part of a config: files, and then single options.

    Args:
        configs: YAML files of ``lightning fit``; later ones override earlier ones.
        overrides: Values by the dotted names of their options.
    """

    configs: tuple[Path, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One of the networks, or ways of training, that are compared.

    Args:
        name: Name, also of its folder.
        description: What it is, in a few words.
        layer: Its changes to the base.
        group: Name of a group, whose arms are listed together in the report; "" for none.
    """

    name: str
    description: str
    layer: Layer
    group: str = ""


@dataclass(frozen=True)
class Study:
    """A base, arms, seeds and a budget.

    Args:
        name: Name, also of the study's folder.
        base: The common layer of all arms.
        arms: At least one arm.
        compare_with: Name of the arm that the others are compared with.
        seeds: Seeds of initialisation, order and augmentation; each arm is run with each of them.
        budget: Options of the trainer for the length of each run.

    Raises:
        UserError: When names or seeds are invalid; the message names field, value and remedy.
    """

    name: str
    base: Layer
    arms: tuple[Arm, ...]
    compare_with: str
    seeds: tuple[int, ...] = (0,)
    budget: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field."""
        _check_name("name", self.name)
        if not self.arms:
            raise UserError("arms must have at least one arm.")
        names = [arm.name for arm in self.arms]
        for name in names:
            _check_name("arms", name)
        # Some file systems do not distinguish upper and lower case.
        if len({name.lower() for name in names}) < len(names):
            raise UserError(f"arms = {names} holds a name twice (upper and lower case count as one): rename one.")
        if self.compare_with not in names:
            raise UserError(f"compare_with = {self.compare_with!r} must be one of {', '.join(names)}.")
        if not self.seeds or any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in self.seeds):
            raise UserError(f"seeds = {list(self.seeds)} must be whole numbers of 0 or more.")
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds = {list(self.seeds)} holds a seed twice: give each once.")


def read_study(path: Path) -> Study:
    """Read a study's file.

    Args:
        path: YAML file as described above; its configs are relative to its folder.

    Raises:
        UserError: When the file is not a valid study; names field, value and remedy.
        OSError: When the file cannot be read.
    """
    try:
        content = yaml.load(path.read_text(), Loader=_UniqueKeys)
    except yaml.YAMLError as error:
        raise UserError(f"{path} must be a YAML file of a study: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a study, with base, arms and compare_with.")
    try:
        return _study(content, path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def flatten(overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return nested and dotted overrides by their dotted names.

    Args:
        overrides: Mapping of names, or parts of names, to values or further mappings.
        where: Their name in errors.

    Raises:
        UserError: When a name is given twice, is invalid, or belongs to the study.
    """
    flat: dict[str, Any] = {}

    def add(content: Mapping[str, Any], prefix: str) -> None:
        for key, value in content.items():
            if not isinstance(key, str) or not key:
                raise UserError(f"{where} has {key!r} as a name: use names of options, such as model.network.scan.")
            name = prefix + key
            if isinstance(value, Mapping) and value:
                add(value, f"{name}.")
            elif name in flat:
                raise UserError(f"{where} sets {name} twice: leave one out.")
            elif name in TAKEN or name.startswith("run."):
                raise UserError(f"{where} sets {name}, which the study sets for every run: leave it out.")
            else:
                flat[name] = value

    add(overrides, "")
    return flat


def _study(content: dict[str, Any], path: Path) -> Study:
    _check_fields("the study", content, [f.name for f in fields(Study)])
    base, arms = _mapping("base", content.get("base")), _mapping("arms", content.get("arms"))
    _check_fields("base", base, ["configs", "overrides"])
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list):
        raise UserError(f"seeds = {seeds!r} must be a list, such as [0, 1, 2].")
    return Study(
        name=str(content.get("name", path.stem)),
        base=_layer("base", base, path.parent),
        arms=tuple(_arm(str(name), arm, path.parent) for name, arm in arms.items()),
        compare_with=str(content.get("compare_with", next(iter(arms), ""))),
        seeds=tuple(seeds),
        budget=_budget(_mapping("budget", content.get("budget"))),
    )


def _budget(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the trainer's options for epochs, and for hours, after which a run ends early as finished."""
    _check_fields("budget", content, ["epochs", "hours"])
    epochs, hours = content.get("epochs"), content.get("hours")
    given: dict[str, Any] = {}
    if epochs is not None:
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            raise UserError(f"budget.epochs = {epochs!r} must be 1 or more, or null.")
        given["trainer.max_epochs"] = epochs
    if hours is not None:
        if not isinstance(hours, (int, float)) or isinstance(hours, bool) or hours <= 0:
            raise UserError(f"budget.hours = {hours!r} must be a positive number, or null.")
        minutes, seconds = divmod(round(hours * 3600), 60)
        days, hours = divmod(minutes // 60, 24)
        given["trainer.max_time"] = f"{days:02}:{hours:02}:{minutes % 60:02}:{seconds:02}"
    return given


def _arm(name: str, content: Any, folder: Path) -> Arm:
    where = f"arms.{name}"
    given = _mapping(where, content)
    _check_fields(where, given, ["description", "group", "configs", "overrides"])
    if not given.get("description"):
        raise UserError(f"{where} has no description: say in a few words what it is.")
    return Arm(name, str(given["description"]), _layer(where, given, folder), str(given.get("group") or ""))


def _layer(where: str, content: Mapping[str, Any], folder: Path) -> Layer:
    configs = content.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(config, str) for config in configs):
        raise UserError(f"{where}.configs = {configs!r} must be a list of YAML files.")
    overrides = flatten(_mapping(f"{where}.overrides", content.get("overrides")), f"{where}.overrides")
    return Layer(tuple(folder / config for config in configs), overrides)


def _mapping(where: str, content: Any) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{where} = {content!r} must be names with values.")
    return content


def _check_fields(where: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in content:
        if name not in known:
            similar = get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise UserError(f"{where} has no field {name!r}: did you mean {similar[0]}? All are {', '.join(known)}.")


def _check_name(where: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(f"{where} = {name!r} must be letters, digits, '_', '-' and '.', a letter or digit first.")


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """A YAML loader in which a repeated name is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping of different keys."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"{key!r} is given twice (line {key_node.start_mark.line + 1}); rename one")
            seen.add(key)
        return super().construct_mapping(node, deep)
