"""What each file format has to bring along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch.export import ExportedProgram

from mobilemamba.export.errors import ExportError
from mobilemamba.export.options import FormatName
from mobilemamba.export.parity import Runner
from mobilemamba.metadata import ModelMetadata

INPUT, OUTPUT = "images", "logits"
"""What images (B, C, H, W) and logits (B, num_classes) are called in files that name them."""

PACKAGES: dict[FormatName, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "coreml": ("coremltools",),
}
"""What a format imports beyond this package's own requirements; the extra of the format's name installs it."""


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


def check_installed(name: FormatName) -> None:
    """Look for a format's packages without importing them.

    Raises:
        ExportError: When one is missing.
    """
    missing = [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]
    if missing:
        raise ExportError(
            f"Format {name!r} needs {' and '.join(missing)}, not installed: "
            f'run pip install ".[{name}]" in the checkout of this project.'
        )


def file_format(name: FormatName) -> FileFormat:
    """Return a format; only its own packages are imported.

    Raises:
        ExportError: When one of them is missing.
    """
    check_installed(name)
    match name:
        case "onnx":
            from mobilemamba.export.onnx import ONNX

            return ONNX
        case "pt2":
            from mobilemamba.export.torch_export import TORCH_EXPORT

            return TORCH_EXPORT
        case "openvino":
            from mobilemamba.export.openvino import OPENVINO

            return OPENVINO
        case "executorch":
            from mobilemamba.export.executorch import EXECUTORCH

            return EXECUTORCH
        case "litert":
            from mobilemamba.export.litert import LITERT

            return LITERT
        case "coreml":
            from mobilemamba.export.coreml import COREML

            return COREML
