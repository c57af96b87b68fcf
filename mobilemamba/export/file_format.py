"""What each file format has to bring along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram

from mobilemamba.export.options import FormatName
from mobilemamba.export.parity import Runner
from mobilemamba.metadata import ModelMetadata


@dataclass(frozen=True)
class FileFormat:
    """A file format.

    Args:
        write: Writes a traced network and its metadata to a path.
        load: Opens a written file with its own runtime, for comparison.
        read_metadata: Reads back what ``write`` was given.
        versions: Returns the packages involved and their versions.
        dynamic_size_margin: Pixels by which images of a file of dynamic size must exceed the network's smallest.
    """

    write: Callable[[ExportedProgram, Path, ModelMetadata], None]
    load: Callable[[Path], Runner]
    read_metadata: Callable[[Path], ModelMetadata]
    versions: Callable[[], dict[str, str]]
    dynamic_size_margin: int = 0


def file_format(name: FormatName) -> FileFormat:
    """Return a format; only its own packages are imported."""
    match name:
        case "onnx":
            from mobilemamba.export.onnx import ONNX

            return ONNX
        case "pt2":
            from mobilemamba.export.torch_export import TORCH_EXPORT

            return TORCH_EXPORT
