"""What each file format brings along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch.export import ExportedProgram

from mobilemamba.export.parity import Runner
from mobilemamba.metadata import ModelMetadata

INPUT, OUTPUT = "images", "logits"
"""What images (B, C, H, W) and logits (B, num_classes) are called in files that name them."""


@dataclass(frozen=True)
class FileFormat:
    """A file format.

    Args:
        write: Writes a traced network and its metadata to a path.
        load: Opens a written file with its own runtime, for comparison, on the CPU with PyTorch's number of threads
            where the runtime lets it choose; None where this system has no such runtime.
        read_metadata: Reads back what ``write`` was given.
        distributions: What is involved besides PyTorch; the last one runs the file.
        dynamic_size_margin: Pixels by which images of a file of dynamic size must exceed the network's smallest.
    """

    write: Callable[[ExportedProgram, Path, ModelMetadata], None]
    load: Callable[[Path], Runner] | None
    read_metadata: Callable[[Path], ModelMetadata]
    distributions: tuple[str, ...] = ()
    dynamic_size_margin: int = 0

    def versions(self) -> dict[str, str]:
        """Return the versions of all packages involved; the last one runs the file."""
        return {"torch": torch.__version__} | {name: version(name) for name in self.distributions}
