"""The matched arm as an experiment's YAML file, whose head says what was measured."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.matching.layouts import Layout
from experiments.matching.widths import Widths
from mobilemamba.files import write_text

LINE_LENGTH = 118


def arm_config(layout: Layout, widths: Widths, name: str) -> dict[str, Any]:
    """Return the experiment of a layout with other widths.

    Args:
        layout: The layout.
        widths: Channels of each stage.
        name: Of the run.
    """
    config = copy.deepcopy(dict(layout.experiment))
    config = {"run": (config.pop("run", None) or {}) | {"name": name}} | config
    config["model"] = config.get("model") or {}
    network = config["model"].get("network") or {}
    config["model"]["network"] = network | {"widths": list(widths)}
    return config


def write_arm(path: Path, title: str, entries: Mapping[str, str], measured: Sequence[str], config: object) -> None:
    """Write an experiment, whole or not at all.

    Args:
        path: The file.
        title: First line of its head.
        entries: Entries of its head: paper row, command, expected result, cost.
        measured: Sentences on the measurement, each from a line of its own.
        config: Of ``lightning fit``.
    """
    indent = max(map(len, entries)) + 2
    lines = [*_wrapped(title), ""]
    for key, text in entries.items():
        lines += _wrapped(f"{key + ':':{indent}}{text}", " " * indent)
    lines.append("")
    for sentence in measured:
        lines += _wrapped(sentence)
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    body = yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=LINE_LENGTH)
    write_text(path, head + body)


def _wrapped(text: str, indent: str = "") -> list[str]:
    # A command stays in one piece where it can: its options hold hyphens.
    return textwrap.wrap(text, LINE_LENGTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Writes lists of values in one line, as the experiments here do."""


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    in_one_line = not any(isinstance(value, dict) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=in_one_line)


_Dumper.add_representer(list, _represent_list)
