"""torch.export files (.pt2), for PyTorch without this package, AOTInductor and other consumers of exported programs.

Files of fixed size are run by ``torch.export.load(path).module()``. With dynamic size, say
``.module(check_guards=False)``: the tracer records the memory layout of the one size that it saw as if it were a demand
on all sizes. The comparison of :mod:`mobilemamba.export.parity` shows that other sizes give the right answers.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.export import ExportedProgram

from mobilemamba.export.comparison import Runner
from mobilemamba.metadata import ModelMetadata

METADATA_FILE = "metadata.json"
"""Name of the metadata inside the archive: ``torch.export.load(path, extra_files={METADATA_FILE: ""})`` fills it."""


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write an archive with graph, weights and metadata."""
    torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata.to_dict())})


def load(path: Path) -> Runner:
    """Open an archive."""
    return torch.export.load(path).module(check_guards=False)


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of an archive."""
    extra_files = {METADATA_FILE: ""}
    torch.export.load(path, extra_files=extra_files)
    return ModelMetadata.from_dict(json.loads(extra_files[METADATA_FILE]))
