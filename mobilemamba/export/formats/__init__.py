"""The file formats, one module each, and what is known of them without importing their packages."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from torch.export import ExportedProgram

from mobilemamba.errors import UserError
from mobilemamba.export.comparison import Runner
from mobilemamba.metadata import ModelMetadata

FormatName = Literal["onnx", "onnx-float16", "pt2", "aoti", "openvino", "executorch", "litert", "coreml"]


@dataclass(frozen=True)
class FileFormat:
    """A file format.

    Args:
        suffix: Of its files; Core ML's are folders.
        module: Module of this package that writes and runs them, see :class:`FormatModule`.
        packages: What it imports besides PyTorch; the last one runs the file. The extra of the format's name installs
            what this package does not require.
        single_shape: Whether files take single images of one size.
        dynamic_size_margin: Pixels by which images of a file of dynamic size must exceed the network's smallest.
        is_half: Whether files hold and compute in float16, see :mod:`mobilemamba.export.half`.
        is_compiled: Whether files are compiled from the network's own modules, which takes a C++ compiler where they
            are made, and have a fixed size.
        platform: The only sys.platform that runs the files; None: any.
    """

    suffix: str
    module: str
    packages: tuple[str, ...] = ()
    single_shape: bool = False
    dynamic_size_margin: int = 0
    is_half: bool = False
    is_compiled: bool = False
    platform: str | None = None

    @property
    def runs_here(self) -> bool:
        """Whether this system can run the files."""
        return self.platform in (None, sys.platform)

    @property
    def tolerance(self) -> float:
        """Largest difference allowed between file and network where none is given, relative to the largest logit."""
        return 2e-2 if self.is_half else 1e-4

    def versions(self) -> dict[str, str]:
        """Return the versions of all packages involved; the last one runs the file."""
        names = [package.replace("_", "-") for package in self.packages]
        return {"torch": torch.__version__} | {name: version(name) for name in names}


class FormatModule(Protocol):
    """What the module of a format has."""

    def write(self, program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
        """Write a traced network and its metadata."""

    def load(self, path: Path) -> Runner:
        """Open a file with its own runtime, on the CPU, with PyTorch's number of threads where that can be chosen."""

    def read_metadata(self, path: Path) -> ModelMetadata:
        """Read back what ``write`` was given."""


ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""Which this package requires; those of other formats are extras."""

FORMATS: dict[FormatName, FileFormat] = {
    "onnx": FileFormat(".onnx", "onnx", ONNX_PACKAGES),
    "onnx-float16": FileFormat(".float16.onnx", "onnx", ONNX_PACKAGES, is_half=True),
    # One pixel more, since the tracer takes a feature map of one pixel for a constant.
    "pt2": FileFormat(".pt2", "torch_export", dynamic_size_margin=1),
    "aoti": FileFormat(".aoti.pt2", "aoti", is_compiled=True),
    "openvino": FileFormat(".xml", "openvino", ("onnx", "onnxscript", "openvino")),
    "executorch": FileFormat(".pte", "executorch", ("executorch",), single_shape=True),
    "litert": FileFormat(".tflite", "litert", ("litert_torch", "ai_edge_litert"), single_shape=True),
    "coreml": FileFormat(".mlpackage", "coreml", ("coremltools",), single_shape=True, platform="darwin"),
}


def check_installed(name: FormatName) -> None:
    """Look for all that making files of a format takes: packages, without importing them, and perhaps a compiler.

    Raises:
        UserError: When something is missing.
    """
    _check_packages(name)
    if FORMATS[name].is_compiled:
        from mobilemamba.export.formats.aoti import check_compiler  # imports Inductor

        check_compiler()


def _check_packages(name: FormatName) -> None:
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        extra = "" if FORMATS[name].packages == ONNX_PACKAGES else f"[{name}]"
        raise UserError(
            f"Format {name!r} needs {' and '.join(missing)}, not installed: "
            f'run pip install ".{extra}" in the checkout of this project.'
        )


def format_module(name: FormatName) -> FormatModule:
    """Import the module of a format.

    Raises:
        UserError: When one of its packages is missing.
    """
    _check_packages(name)
    return cast(FormatModule, import_module(f"{__name__}.{FORMATS[name].module}"))


def format_of(path: str | Path) -> FormatName:
    """Return the format of an exported file by its name.

    Raises:
        UserError: When the suffix is that of no format.
    """
    # The longest suffix first: ".aoti.pt2" ends in ".pt2".
    for name, form in sorted(FORMATS.items(), key=lambda item: -len(item[1].suffix)):
        if Path(path).name.endswith(form.suffix):
            return name
    suffixes = ", ".join(form.suffix for form in FORMATS.values())
    raise UserError(f"{path} is no exported file: its name ends in none of {suffixes}.")


def load(path: str | Path) -> Runner:
    """Open an exported file of any format with its runtime; call the result with images (B, C, H, W) for logits.

    Raises:
        UserError: When the suffix is that of no format, its packages are missing or this system cannot run its files.
    """
    name = format_of(path)
    if not FORMATS[name].runs_here:
        raise UserError(f"{path} cannot be run: this system has no {name} runtime. Export another format.")
    return format_module(name).load(Path(path))


def read_metadata(path: str | Path) -> ModelMetadata:
    """Read class names and preprocessing from an exported file.

    Raises:
        UserError: When the suffix is that of no format, or its packages are missing.
    """
    return format_module(format_of(path)).read_metadata(Path(path))
