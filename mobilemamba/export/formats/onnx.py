"""ONNX files: input "images" (B, C, H, W), output "logits" (B, num_classes), weights inside, metadata as JSON values.

The metadata properties are the fields of :class:`mobilemamba.metadata.ModelMetadata`, so that a program in any language
can prepare images and name classes without this package.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch.export import ExportedProgram

from mobilemamba.export.formats.base import INPUT, OUTPUT, quiet
from mobilemamba.export.parity import Runner
from mobilemamba.metadata import ModelMetadata

DIMENSIONS = {0: "batch", 2: "height", 3: "width"}
"""Names of the dimensions of the input, where they are open."""


def convert(program: ExportedProgram) -> torch.onnx.ONNXProgram:
    """Return the optimised graph with readable names."""
    with quiet("onnxscript", "onnx_ir", "torch.onnx"):
        result = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(DIMENSIONS,),  # of a traced program it takes the names alone
            verbose=False,
        )
    assert result is not None  # only the exporter of TorchScript times returns None
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
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a file."""
    properties = onnx.load(path, load_external_data=False).metadata_props
    return ModelMetadata.from_dict({entry.key: json.loads(entry.value) for entry in properties})
