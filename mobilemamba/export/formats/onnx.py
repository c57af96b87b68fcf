"""ONNX files: input "images" (B, C, H, W), output "logits" (B, num_classes), weights inside, metadata as JSON values.

The metadata properties are the fields of :class:`mobilemamba.metadata.ModelMetadata`, so that a program in any language
can prepare images and name classes without this package.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor
from torch.export import ExportedProgram

from mobilemamba.export.formats.base import INPUT, OUTPUT, FileFormat
from mobilemamba.export.parity import Runner
from mobilemamba.export.quiet import quiet
from mobilemamba.metadata import ModelMetadata

DIMENSIONS = {0: "batch", 2: "height", 3: "width"}
"""Names of the open dimensions of the input."""


def convert(program: ExportedProgram) -> torch.onnx.ONNXProgram:
    """Return the optimised graph with readable names."""
    with quiet("onnxscript", "onnx_ir", "torch.onnx"):
        result = torch.onnx.export(program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    assert result is not None  # only the exporter of TorchScript times returns None
    _name_dimensions(result)
    return result


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write one self-contained file."""
    result = convert(program)
    for key, value in metadata.to_dict().items():
        result.model.metadata_props[key] = json.dumps(value)
    result.save(path, external_data=False)


def load(path: Path) -> Runner:
    """Open a file with ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return run


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a file."""
    properties = onnx.load(path, load_external_data=False).metadata_props
    return ModelMetadata.from_dict({entry.key: json.loads(entry.value) for entry in properties})


def versions() -> dict[str, str]:
    """Return the versions of exporter and runtime."""
    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def _name_dimensions(result: torch.onnx.ONNXProgram) -> None:
    """Replace the tracer's symbols by names a reader understands, in all shapes of the graph."""
    import onnx_ir as ir

    graph = result.model.graph
    shape = graph.inputs[0].shape
    assert shape is not None  # the exporter gives all inputs a shape
    names = {
        dimension.value: DIMENSIONS[axis]
        for axis, dimension in enumerate(shape)
        if isinstance(dimension, ir.SymbolicDim) and isinstance(dimension.value, str)
    }
    if not names:
        return
    symbol = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    for value in [*graph.inputs, *graph.outputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape(
                symbol.sub(lambda match: names[match[1]], dimension.value)
                if isinstance(dimension, ir.SymbolicDim) and dimension.value
                else dimension
                for dimension in value.shape
            )


FORMAT = FileFormat(write, load, read_metadata, versions)
