"""The file formats, one module each; only the packages of the one that is asked for are imported."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from mobilemamba.errors import UserError
from mobilemamba.export.formats.base import FileFormat
from mobilemamba.export.options import FormatName

MODULES: dict[FormatName, str] = {
    "onnx": "onnx",
    "pt2": "torch_export",
    "openvino": "openvino",
    "executorch": "executorch",
    "litert": "litert",
    "coreml": "coreml",
}
PACKAGES: dict[FormatName, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "coreml": ("coremltools",),
}
"""What a format imports besides torch; the extra of the format's name installs what this package does not require."""


def check_installed(name: FormatName) -> None:
    """Look for a format's packages without importing them.

    Raises:
        UserError: When one is missing.
    """
    missing = [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]
    if missing:
        raise UserError(
            f"Format {name!r} needs {' and '.join(missing)}, not installed: "
            f'run pip install ".{"" if name == "onnx" else f"[{name}]"}" in the checkout of this project.'
        )


def file_format(name: FormatName) -> FileFormat:
    """Return a format.

    Raises:
        UserError: When one of its packages is missing.
    """
    check_installed(name)
    form: FileFormat = import_module(f"{__name__}.{MODULES[name]}").FORMAT
    return form
