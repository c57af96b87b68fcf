"""Layouts whose widths are searched: YAML files of experiments; those of the paper's Figure 3 have names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError

FOLDER = Path(__file__).parents[1] / "ablations"
NAMES = ("three_stage", "four_stage_cnn", "four_stage_mamba")
"""Files in the folder. The paper (arXiv:2411.15941) gives no widths for four stages; those there were found here."""


@dataclass(frozen=True)
class Layout:
    """A network without final widths, and the config of its experiment.

    Args:
        name: Name of the layout.
        paper_row: Its row in the paper.
        network: Its architecture; the widths are proportions.
        experiment: Config of ``lightning fit``, to which the widths are added.
    """

    name: str
    paper_row: str
    network: MobileMambaConfig
    experiment: Mapping[str, Any]


def find_layout(name: str) -> Layout:
    """Return a layout by its name in :data:`NAMES`, or that of an experiment's YAML file.

    Raises:
        UserError: When it does not exist, or the file does not describe a network.
    """
    path = FOLDER / f"{name}.yaml" if name in NAMES else Path(name)
    if not path.is_file():
        similar = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" Did you mean {similar[0]}?" if similar else ""
        raise UserError(f"--layout = {name} must be {', '.join(NAMES)} or an experiment's YAML file that exists.{hint}")
    try:
        text = path.read_text()
        experiment = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--layout = {path} must be a YAML file: {error}") from error
    if not isinstance(experiment, dict):
        raise UserError(f"--layout = {path} must hold the config of an experiment.")
    model = experiment.get("model") or {}
    network = (model.get("network") if isinstance(model, dict) else model) or {}
    if not isinstance(network, dict):
        raise UserError(f"--layout {path}: model.network = {network!r} must be fields of the network.")
    unknown = sorted(network.keys() - {field.name for field in fields(MobileMambaConfig)})
    if unknown:
        raise UserError(f"--layout {path}: model.network has no field {', '.join(unknown)}.")
    try:
        config = MobileMambaConfig(**network)
    except TypeError as error:
        raise UserError(f"--layout {path}: {error}") from error
    row = re.search(r"^# Paper row:\s*(.*)$", text, re.MULTILINE)
    return Layout(path.stem, row[1] if row and name in NAMES else "none", config, experiment)
