"""OpenVINO files: the graph in an .xml file, its weights in the .bin file of the same name beside it.

Input "images" (B, C, H, W), output "logits" (B, num_classes), weights in float32. The metadata are JSON values in the
model's runtime information: ``model.get_rt_info(["mobilemamba", "class_names"])``.

The graph takes the way over ONNX, in memory: ``openvino.convert_model`` makes a slower one of the traced program. On a
processor with bfloat16 units OpenVINO computes in that type unless told otherwise, and is off by percents: files are
compared with INFERENCE_PRECISION_HINT = "f32".

Importing OpenVINO starts Intel's telemetry where the package openvino-telemetry is, which comes along with it. Whoever
does not want it runs that package's command ``opt_in_out --opt_out`` once, or ``pip uninstall openvino-telemetry``.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.rewriter import pattern, rewrite
from torch.export import ExportedProgram

from mobilemamba.export.comparison import Runner
from mobilemamba.export.formats.base import INPUT, OUTPUT
from mobilemamba.export.formats.onnx import convert
from mobilemamba.metadata import ModelMetadata

SECTION = "mobilemamba"
"""Section of the runtime information that holds the metadata."""


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write the graph and, beside it, its weights."""
    import openvino

    graph = io.BytesIO(ir.to_proto(join_softplus(convert(program).model)).SerializeToString())
    model = openvino.Core().read_model(graph)
    for key, value in metadata.to_dict().items():
        model.set_rt_info(json.dumps(value), [SECTION, key])
    openvino.save_model(model, path, compress_to_fp16=False)


def load(path: Path) -> Runner:
    """Open a file on the CPU, in full precision."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images: torch.from_numpy(compiled({INPUT: images.numpy()})[OUTPUT])


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a file."""
    import openvino

    section = openvino.Core().read_model(path).get_rt_info([SECTION]).value
    return ModelMetadata.from_dict({key: json.loads(value) for key, value in section.items()})


def join_softplus(model: ir.Model) -> ir.Model:
    """Return the model with each softplus in one operator, which is faster in OpenVINO but not in ONNX Runtime."""

    def spelled_out(op: Any, x: Any, low: Any) -> Any:  # as in scan/rows.py: -softplus(-x)
        return op.Min(x, op.Log(op.Sigmoid(op.Clip(x, low))))

    def joined(op: Any, x: Any, low: Any) -> Any:
        return op.Neg(op.Softplus(op.Neg(x)))

    return rewrite(model, [pattern.RewriteRule(spelled_out, joined)])
