"""OpenVINO files: the graph in an .xml file, its weights in the .bin file of the same name beside it.

Input "images" (B, C, H, W), output "logits" (B, num_classes), weights in float32. The metadata are JSON values in the
model's runtime information: ``model.get_rt_info(["mobilemamba", "class_names"])``.

The graph takes the way over ONNX, in memory: of the traced program itself ``openvino.convert_model`` makes a slower
one. On a processor with bfloat16 units OpenVINO computes in that type unless told otherwise, and is off by
percents: files are compared with INFERENCE_PRECISION_HINT = "f32".

Importing OpenVINO starts Intel's telemetry where the package openvino-telemetry is, which comes along with it. Whoever
does not want it runs that package's command ``opt_in_out --opt_out`` once, or ``pip uninstall openvino-telemetry``.
"""

from __future__ import annotations

import io
import json
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_ir as ir
import openvino
import torch
from torch import Tensor
from torch.export import ExportedProgram

from mobilemamba.export.formats.base import INPUT, OUTPUT, FileFormat
from mobilemamba.export.formats.onnx import convert
from mobilemamba.export.formats.openvino_graph import rewrite_for_openvino
from mobilemamba.export.parity import Runner
from mobilemamba.metadata import ModelMetadata

SECTION = "mobilemamba"
"""Section of the runtime information that holds the metadata."""


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata) -> None:
    """Write the graph and, beside it, its weights."""
    result = convert(program)
    rewritten = rewrite_for_openvino(result.model)
    graph = io.BytesIO(ir.to_proto(rewritten).SerializeToString())
    model = openvino.Core().read_model(graph)
    for key, value in metadata.to_dict().items():
        model.set_rt_info(json.dumps(value), [SECTION, key])
    openvino.save_model(model, path, compress_to_fp16=False)


def load(path: Path) -> Runner:
    """Open a file on the CPU, in full precision."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(compiled({INPUT: images.numpy()})[OUTPUT])

    return run


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a file."""
    section = openvino.Core().read_model(path).get_rt_info([SECTION]).value
    return ModelMetadata.from_dict({key: json.loads(value) for key, value in section.items()})


def versions() -> dict[str, str]:
    """Return the versions of exporter and runtime."""
    return {"torch": torch.__version__, "onnx": onnx.__version__, "openvino": version("openvino")}


FORMAT = FileFormat(write, load, read_metadata, versions)
