"""Core ML packages (.mlpackage, a folder) for Apple's systems from iOS 15 and macOS 12 on.

Input "images" (1, C, H, W), output "logits" (1, num_classes), computed in float32. The metadata are JSON values in the
model's user-defined metadata, under "mobilemamba.class_names" and so on.

Only macOS can run a package. Elsewhere it is converted and left without comparison, which report and warning say. The
comparison on macOS is written to Core ML's documentation and was itself not yet run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mobilemamba.export.comparison import Runner
from mobilemamba.export.formats.base import INPUT, OUTPUT, quiet
from mobilemamba.metadata import ModelMetadata

PREFIX = "mobilemamba."
"""Precedes the names of the metadata, among those that the converter adds."""

DECOMPOSITIONS: dict[torch._ops.OperatorBase, Callable[..., Tensor]] = {
    torch.ops.aten.addcmul.default: lambda x, a, b, value=1: x + value * a * b,
    torch.ops.aten.alias.default: lambda x: x,
}
"""Operators that the converter does not know, by ones that it does."""


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write a package."""
    with quiet("coremltools"), redirect_stderr(io.StringIO()):  # progress bars
        import coremltools

        (images,), _ = program.example_inputs
        model = coremltools.convert(
            program.run_decompositions(DECOMPOSITIONS),
            inputs=[coremltools.TensorType(INPUT, tuple(images.shape))],
            outputs=[coremltools.TensorType(OUTPUT)],
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        for key, value in metadata.to_dict().items():
            model.user_defined_metadata[PREFIX + key] = json.dumps(value)
        model.save(str(path))


def load(path: Path) -> Runner:
    """Open a package on the CPU of a Mac."""
    with quiet("coremltools"):
        import coremltools

        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    return lambda images: torch.from_numpy(model.predict({INPUT: images.numpy()})[OUTPUT])


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a package."""
    with quiet("coremltools"):
        import coremltools

        properties = coremltools.utils.load_spec(str(path)).description.metadata.userDefined
    return ModelMetadata.from_dict(
        {key.removeprefix(PREFIX): json.loads(properties[key]) for key in properties if key.startswith(PREFIX)}
    )
