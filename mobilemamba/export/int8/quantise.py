"""An ONNX graph in float32 becomes one with static int8 weights and activations.

What is quantised was chosen by measuring (``python -m benchmarks int8``, benchmarks/README.md): convolutions over
channels, where nearly all the arithmetic is, and matrix products with weights, which make the file smaller. The rest
stays in float32:

- depthwise convolutions, the wavelet transforms among them, take no less time in int8;
- sums, products and gates save next to nothing, and the scan's recurrence is among them, whose states would be rounded
  at every step; its exponentials and logarithms have no int8 form in ONNX Runtime;
- the classifier takes no time, and of logits in 8 bits several would be the largest.

Weights are signed with one scale per output channel, activations unsigned with one scale and zero point per tensor, in
nodes QuantizeLinear and DequantizeLinear, which most engines read. Weights take 7 of the 8 bits: on x86 processors
without VNNI, sums of products of 8 bits overflow their 16 bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor

from mobilemamba.export.formats.base import INPUT, quiet


def quantise(
    source: Path,
    target: Path,
    batches: Iterator[Tensor],
    choose: Callable[[onnx.GraphProto], list[str]] | None = None,
) -> int:
    """Write an ONNX file with quantised weights and activations.

    Args:
        source: File in float32, with weights inside.
        target: File to write; the metadata are those of the source.
        batches: Images that ranges of activations are taken from, (B, C, H, W) each.
        choose: Returns the names of the nodes to quantise; None for :func:`quantised_nodes`.

    Returns:
        Number of quantised nodes.
    """
    with quiet(""), tempfile.TemporaryDirectory() as folder:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime ships no types
            def get_next(self) -> dict[str, Any] | None:
                batch = next(batches, None)
                return None if batch is None else {INPUT: batch.numpy()}

        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        names = (choose or quantised_nodes)(onnx.load(prepared).graph)
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    _copy_metadata(source, target)
    return len(names)


def quantised_nodes(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that work in int8: see the module's description."""
    weights = {value.name for value in graph.initializer}
    results = {value.name for value in graph.output}
    return [
        node.name
        for node in graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm")
        and node.input[1] in weights
        and all(attribute.i == 1 for attribute in node.attribute if attribute.name == "group")
        and node.output[0] not in results
    ]


def _copy_metadata(source: Path, target: Path) -> None:
    """Give a file the properties of another one, without those that tools have added."""
    properties = onnx.load(source, load_external_data=False).metadata_props
    model = onnx.load(target)
    del model.metadata_props[:]
    model.metadata_props.extend(properties)
    onnx.save(model, target)
