"""Layouts whose widths are to be found: those of the paper's Figure 3 as one table, and those of config files.

The paper (arXiv:2411.15941) gives no widths for four stages: they are chosen here by measurement. The widths of the
table are proportions to start from.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from experiments.matching.errors import MatchError
from mobilemamba.config import MobileMambaConfig


@dataclass(frozen=True)
class Layout:
    """A network up to its widths, and the config of an experiment around it.

    Args:
        name: Of the layout.
        paper_row: What the paper says of it.
        network: Its architecture; the widths are proportions.
        experiment: Config of ``lightning fit``, to which the widths are added.
    """

    name: str
    paper_row: str
    network: MobileMambaConfig
    experiment: Mapping[str, Any]


_FOUR_STAGES: dict[str, Any] = {
    "depths": [1, 1, 2, 2],
    "global_shares": [0.8, 0.8, 0.7, 0.6],
    "local_shares": [0.2, 0.2, 0.2, 0.3],
    "local_kernels": [[7], [7], [5], [3]],
    "wavelet_kernels": [7, 7, 5, 3],
}
"""What both layouts of four stages share: a third stage like the second of three, a fourth like the third."""

_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "three_stage": ("Figure 3, three stages", {"widths": [192, 384, 448]}),
    "four_stage_cnn": (
        "Figure 3, four stages with convolution only in the first two",
        {"stem_stride": 4, "widths": [32, 56, 160, 328], "mixer_stages": [False, False, True, True]} | _FOUR_STAGES,
    ),
    "four_stage_mamba": (
        "Figure 3, four stages with the mixer in all",
        {"stem_stride": 4, "widths": [16, 48, 104, 216], "mixer_stages": [True, True, True, True]} | _FOUR_STAGES,
    ),
}


def _layout(name: str, paper_row: str, network: dict[str, Any]) -> Layout:
    experiment = {
        "data": {"class_path": "datamodules.ImageNetDataModule"},
        "model": {"network": network},
        "trainer": {"precision": "16-mixed"},
    }
    return Layout(name, paper_row, MobileMambaConfig(**network), experiment)


LAYOUTS = {name: _layout(name, *row) for name, row in _ROWS.items()}
"""The layouts that are compared in the paper, by name."""


def find_layout(name: str) -> Layout:
    """Return a layout by its name in :data:`LAYOUTS`, or that of an experiment's YAML file.

    Raises:
        MatchError: When there is neither, or the file does not describe a network.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    path = Path(name)
    if path.is_file():
        return _read_layout(path)
    if path.suffix in (".yaml", ".yml"):
        raise MatchError(f"--layout {name} does not exist.")
    similar = difflib.get_close_matches(name, LAYOUTS, n=1)
    hint = f"did you mean {similar[0]}? " if similar else ""
    raise MatchError(f"--layout {name} is unknown: {hint}use {', '.join(LAYOUTS)}, or a YAML file of an experiment.")


def _read_layout(path: Path) -> Layout:
    try:
        experiment = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MatchError(f"--layout {path} is no YAML file: {error}") from error
    if not isinstance(experiment, dict):
        raise MatchError(f"--layout {path} holds no config of an experiment.")
    model = experiment.get("model") or {}
    network = (model.get("network") if isinstance(model, dict) else model) or {}
    if not isinstance(network, dict):
        raise MatchError(f"--layout {path}: model.network = {network!r} is not possible: give fields of the network.")
    unknown = sorted(network.keys() - {field.name for field in fields(MobileMambaConfig)})
    if unknown:
        raise MatchError(f"--layout {path}: model.network has no field {', '.join(unknown)}.")
    try:
        config = MobileMambaConfig(**network)
    except (TypeError, ValueError) as error:
        raise MatchError(f"--layout {path}: {error}") from error
    return Layout(path.stem, "none", config, experiment)
