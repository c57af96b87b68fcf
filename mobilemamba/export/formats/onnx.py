"""ONNX files: input "images" (B, C, H, W), output "logits" (B, num_classes), weights inside, metadata as JSON values.

Of a network that segments, the output is (B, num_classes, H, W). A file of a detector takes one image and has the
outputs "boxes" (N, 4), "labels" (N,), "scores" (N,), and "masks" (N, 1, H, W) where it makes them.

The metadata properties are the fields of :class:`mobilemamba.metadata.ModelMetadata`, so that a program in any language
can prepare images and name classes without this package.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mobilemamba.errors import UserError
from mobilemamba.export.comparison import Answer, Runner
from mobilemamba.export.formats.base import INPUT, OUTPUT, quiet
from mobilemamba.metadata import ModelMetadata

DIMENSIONS = {0: "batch", 2: "height", 3: "width"}
"""Names of the dimensions of the input, where they are open."""

OLDEST_OF_EXPORTER = 18
"""Oldest version of the operators that PyTorch's exporter writes."""

DETECTOR_OPSET = 17
"""Version of the operators of detectors; the older exporter knows none later than 20."""


def convert(program: ExportedProgram, opset: int | None = None) -> torch.onnx.ONNXProgram:
    """Return the optimised graph with readable names, of this version of the operators or the exporter's own."""
    with quiet("onnxscript", "onnx_ir", "torch.onnx"):
        result = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=opset,
            dynamic_shapes=(DIMENSIONS,),  # of a traced program it takes the names alone
            verbose=False,
        )
    assert result is not None  # only the exporter of TorchScript times returns None
    return result


def write(program: ExportedProgram, path: Path, metadata: ModelMetadata, opset: int | None = None) -> None:
    """Write one self-contained file, which runtimes of the opset's time can read where one is given."""
    written = None if opset is None else max(opset, OLDEST_OF_EXPORTER)
    result = convert(program, written)
    if written is not None:
        assert result.model.opset_imports == {"": written}  # the exporter keeps its own where conversion fails
        result.model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", written)])
    for key, value in metadata.to_dict().items():
        result.model.metadata_props[key] = json.dumps(value)
    result.save(path, external_data=False)
    if opset != written:
        model = onnx.load(path)
        lower(model)
        onnx.save(model, path)


def lower(model: onnx.ModelProto) -> None:
    """Write what opset 18 puts otherwise in the operators of 17, in place; older ones have no LayerNormalization.

    Raises:
        UserError: When the graph has other operators of opset 18.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        match node.op_type:
            case "Split":  # into given sizes, or without them into equal parts, as the exporter has them
                options = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
                del node.attribute[:]
                node.attribute.extend(options)
            case "ReduceMean" if node.input[1:] and node.input[1] in constants:
                keep = [attribute for attribute in node.attribute if attribute.name == "keepdims"]
                axes = onnx.helper.make_attribute("axes", onnx.numpy_helper.to_array(constants[node.input.pop()]))
                del node.attribute[:]
                node.attribute.extend([axes, *keep])
            case name if _is_of_exporter(node):
                raise UserError(f"opset = 17 must be 18 or later for this network: its graph has the operator {name}.")
    model.opset_import[0].version = OLDEST_OF_EXPORTER - 1


def _is_of_exporter(node: onnx.NodeProto) -> bool:
    """Return whether opset 17 may lack the operator, or one in its branches."""
    has_branches = any(attribute.HasField("g") for attribute in node.attribute)
    schema = onnx.defs.get_schema(node.op_type, OLDEST_OF_EXPORTER, node.domain)
    return has_branches or schema.since_version == OLDEST_OF_EXPORTER


def write_detector(network: nn.Module, image: Tensor, path: Path, metadata: ModelMetadata) -> None:
    """Write a detector by PyTorch's older exporter, which traces one image.

    The newer one asks torch.export, which gives up where torchvision's detectors choose boxes by their scores
    (https://github.com/pytorch/vision/issues/9306).
    """
    with quiet("torch.onnx"), torch.no_grad():
        names = list(network(image))
        count = {name: {0: f"{name}_count"} for name in names}
        torch.onnx.export(
            network,
            (image,),
            path,
            dynamo=False,
            opset_version=DETECTOR_OPSET,
            input_names=[INPUT],
            output_names=names,
            dynamic_axes=count,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.to_dict().items()})
    onnx.save(model, path)


def load(path: Path) -> Runner:
    """Open a file with ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> Answer:
        answers = map(torch.from_numpy, session.run(names, {INPUT: images.numpy()}))
        return next(answers) if names == [OUTPUT] else dict(zip(names, answers, strict=True))

    return run


def read_metadata(path: Path) -> ModelMetadata:
    """Read the metadata of a file."""
    properties = onnx.load(path, load_external_data=False).metadata_props
    return ModelMetadata.from_dict({entry.key: json.loads(entry.value) for entry in properties})
