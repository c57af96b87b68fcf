"""What each file format has to bring along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
        versions: Returns the packages involved and their versions; the last one runs the file.
        dynamic_size_margin: Pixels by which images of a file of dynamic size must exceed the network's smallest.
    """

    write: Callable[[ExportedProgram, Path, ModelMetadata], None]
    load: Callable[[Path], Runner] | None
    read_metadata: Callable[[Path], ModelMetadata]
    versions: Callable[[], dict[str, str]]
    dynamic_size_margin: int = 0
