"""What an export can be asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mobilemamba.errors import UserError, require
from mobilemamba.export.formats import FORMATS, FormatName

OPSETS = range(17, 24)
"""Versions of the ONNX operators that files can have; older ones lack LayerNormalization."""


@dataclass(frozen=True)
class ExportOptions:
    """Form of an exported file.

    Args:
        format: "onnx" for ONNX Runtime and other engines, "onnx-float16" for the same in half the size, "pt2" for
            torch.export, "aoti" for AOTInductor, compiled ahead of time, "openvino" for Intel's runtime, "executorch"
            for PyTorch's runtime on phones and small devices, "litert" for Google's, "coreml" for Apple's.
        dynamic_batch: Whether the file takes any batch size; otherwise it takes single images.
        dynamic_size: Whether the file takes images of any height and width, from the network's smallest up to
            :func:`.tracing.largest_dynamic_size`; otherwise those of the metadata.
        tolerance: Largest difference allowed between file and network, relative to the largest logit; None: 1e-4, and
            2e-2 of a file in float16.
        opset: With "onnx" and "onnx-float16", version of the operators, for older runtimes; the file's own version is
            then the oldest that has them. None: the exporter's default.

    Raises:
        UserError: When a field must be another, or does not fit the format.
    """

    format: FormatName = "onnx"
    dynamic_batch: bool = True
    dynamic_size: bool = False
    tolerance: float | None = None
    opset: int | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the file, with its dot."""
        return FORMATS[self.format].suffix

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.format in FORMATS, "format", self.format, f"one of {', '.join(FORMATS)}")
        for field in ("dynamic_batch", "dynamic_size"):
            if getattr(self, field) and FORMATS[self.format].single_shape:
                raise UserError(
                    f"{field} = True must be false: {self.format} files take single images of one size. "
                    f"Set {field} to false, with `mobilemamba export` by --no-{field.replace('_', '-')}."
                )
        if self.dynamic_size and FORMATS[self.format].is_compiled:
            raise UserError(
                f"dynamic_size = True must be false: {self.format} files take images of one size. Format pt2 takes any."
            )
        if self.opset is not None:
            is_onnx = FORMATS[self.format].module == "onnx"
            require(is_onnx, "opset", self.opset, f"null for format {self.format!r}: it is ONNX's alone")
            allowed = f"{OPSETS[0]} to {OPSETS[-1]}, or null for the exporter's default"
            require(self.opset in OPSETS, "opset", self.opset, allowed)
        if self.tolerance is not None:
            is_positive = math.isfinite(self.tolerance) and self.tolerance > 0
            require(is_positive, "tolerance", self.tolerance, "a positive number, such as 1e-4, or null")
