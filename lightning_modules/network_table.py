"""Parameters and MACs of each part of a network, as a table."""

from __future__ import annotations

import re

from torch import nn

from mobilemamba.complexity import Complexity, complexity_of_modules
from mobilemamba.tables import table

PARTS = re.compile(
    r"stem|head|stages\.\d+\.downsample|stages\.\d+\.blocks\.\d+"
    r"|stages\.\d+\.blocks\.\d+\.mixer\.branch\.(global_mixer\.mamba|global_mixer\.wavelet|local_mixer)"
)
"""Names of the modules in the table; those of the last line are contained in their blocks."""

BRANCHES = {"mamba": "scan branch", "wavelet": "wavelet branch", "local_mixer": "local branch"}


def network_table(network: nn.Module, image_size: tuple[int, int]) -> str:
    """Return a Markdown table of a MobileMamba's parts, for one image.

    Args:
        network: A MobileMamba in its training form; it stays as it is.
        image_size: Height and width in pixels.
    """
    modules = complexity_of_modules(network, image_size)
    whole = modules[""]
    rows = [
        _row(_label(name), part, whole)
        for name, part in modules.items()
        if PARTS.fullmatch(name) and (part.parameters or part.total_macs)
    ]
    header = ("part", "parameters", "share", "MACs", "share", "of them scan")
    # The sum first: TensorBoard shows only the beginning until one scrolls.
    return table(header, [_row("**whole network**", whole, whole), *rows])


def _row(label: str, part: Complexity, whole: Complexity) -> tuple[str, ...]:
    return (
        label,
        f"{part.parameters:,}",
        f"{part.parameters / whole.parameters:.1%}",
        f"{part.total_macs:,}",
        f"{part.total_macs / whole.total_macs:.1%}",
        f"{part.scan_macs:,}" if part.scan_macs else "",
    )


def _label(name: str) -> str:
    branch = BRANCHES.get(name.rpartition(".")[2])
    return name if branch is None else f"... its {branch}"
