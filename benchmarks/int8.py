"""Int8 files for ONNX Runtime: the time and accuracy of quantising different parts of a network.

::

    python -m benchmarks int8 mobilemamba_s6 --threads 1
    python -m benchmarks int8 --checkpoint RUN/checkpoints/best.ckpt --calibration PHOTOS --validation imagenet/val

The first command uses random weights and images, which show times and errors but no accuracy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from benchmarks.formats import trained_looking
from benchmarks.forms import CPU, set_threads
from benchmarks.publish import machine, table_of, write_results
from mobilemamba import MobileMamba, ModelMetadata
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, export_network
from mobilemamba.export.comparison import compare_logits
from mobilemamba.export.formats.onnx import load
from mobilemamba.export.int8.images import LabelledImages, choose_images, read_batches
from mobilemamba.export.int8.options import Int8Options
from mobilemamba.export.int8.quantise import quantise, quantised_nodes
from mobilemamba.export.parity import random_images
from mobilemamba.export.timing import interleaved
from mobilemamba.weights import load_network

BATCH_SIZE = 8

FLOAT32 = "nothing (float32)"

MANY = ("Add", "Mul", "Sub", "Sigmoid", "Relu", "Split", "Concat", "Transpose")
PARTS: dict[str, Callable[[str, bool], bool]] = {
    "as exported": lambda operator, is_exported: is_exported,
    "convolutions alone": lambda operator, is_exported: is_exported and operator == "Conv",
    "and depthwise": lambda operator, is_exported: is_exported or operator == "Conv",
    "and the classifier": lambda operator, is_exported: is_exported or operator == "Gemm",
    "and sums, products, gates": lambda operator, is_exported: is_exported or operator in MANY,
}
"""Which nodes to quantise, by their operator and whether the export quantises them."""

Result = dict[str, Any]
"""One file: its quantised part, number of quantised nodes, timing for a single image in milliseconds, largest
difference of a logit from the float32 file relative to the largest logit (max_abs_error), share of images with the same
top class (top1_agreement), share of correctly classified images (accuracy, None without labels), and size_bytes."""


def int8(
    network: str = "mobilemamba_s6",
    checkpoint: Path | None = None,
    calibration: Path | None = None,
    validation: Path | None = None,
    threads: PositiveInt | None = None,
    rounds: PositiveInt = 30,
    output: Path = Path("runs/int8.json"),
) -> None:
    """Quantise parts of a network, compare and time the files.

    Args:
        network: timm name of a MobileMamba, with random weights.
        checkpoint: Checkpoint of `lightning fit`, in place of a timm name.
        calibration: Folder of images, for a checkpoint.
        validation: Folder with other images, in a subfolder for each class.
        threads: CPU threads. Null: PyTorch's choice.
        rounds: Timed rounds of three calls.
        output: JSON file.

    Raises:
        UserError: When a checkpoint is given without images.
    """
    set_threads(threads)
    name = network
    images: tuple[LabelledImages | None, LabelledImages | None] = (None, None)
    if checkpoint is None:
        model, size = trained_looking(network)
        metadata = ModelMetadata(size)
    elif calibration is None:
        raise UserError("--checkpoint needs --calibration FOLDER, with images for calibration and comparison.")
    else:
        name, (model, metadata) = str(checkpoint), load_network(checkpoint)
        images = choose_images(Int8Options(calibration, validation), model.num_classes, metadata.class_names)
    results = measure(model, metadata, *images, rounds)
    count = "random" if images[1] is None else f"{len(images[1].files)}"
    base = results[0]["timing"]["minimum"]
    header = "in int8 | nodes | ms | ms / float32 | error | same top class | accuracy | MB"
    rows = (
        f"{one['part']} | {one['nodes']} | {one['timing']['minimum']:.2f} | {one['timing']['minimum'] / base:.2f}"
        f"| {one['max_abs_error']:.3f} | {one['top1_agreement']:.1%}"
        f"| {'-' if one['accuracy'] is None else format(one['accuracy'], '.2%')} | {one['size_bytes'] / 1e6:.1f}"
        for one in results
    )
    print(f"{name}, {machine(CPU)}, batch 1; compared on {count} images\n\n{table_of(header, rows)}")
    write_results(output, CPU, results, network=name)


def measure(
    network: MobileMamba,
    metadata: ModelMetadata,
    calibration: LabelledImages | None,
    compared: LabelledImages | None,
    rounds: int,
) -> list[Result]:
    """Quantise each of PARTS and time all files in turn, with the float32 file first; images None: random ones."""
    image = random_images((1, 3, *metadata.image_size))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float32.onnx"
        export_network(network, source, ExportOptions(), metadata)
        nodes, files = {FLOAT32: 0}, {FLOAT32: source}
        for number, (part, is_chosen) in enumerate(PARTS.items()):
            files[part] = Path(folder) / f"{number}.onnx"
            batches = _batches(calibration, metadata, 1)
            nodes[part] = quantise(source, files[part], batches, partial(_chosen_nodes, is_chosen))
        runners = {part: load(file) for part, file in files.items()}
        logits = {
            part: torch.cat([runner(batch) for batch in _batches(compared, metadata, 2)])
            for part, runner in runners.items()
        }
        timings = interleaved({part: partial(runner, image) for part, runner in runners.items()}, rounds, 3, CPU)
        sizes = {part: file.stat().st_size for part, file in files.items()}
    results = []
    for part, answers in logits.items():
        comparison = compare_logits(logits[FLOAT32], answers, (BATCH_SIZE, *image.shape[1:]))
        results.append(
            {
                "part": part,
                "nodes": nodes[part],
                "timing": asdict(timings[part]),
                "max_abs_error": comparison.max_abs_error,
                "top1_agreement": comparison.top1_agreement,
                "accuracy": None if compared is None else compared.accuracy(answers),
                "size_bytes": sizes[part],
            }
        )
    return results


def _chosen_nodes(is_chosen: Callable[[str, bool], bool], graph: onnx.GraphProto) -> list[str]:
    exported = set(quantised_nodes(graph))
    return [node.name for node in graph.node if is_chosen(node.op_type, node.name in exported)]


def _batches(images: LabelledImages | None, metadata: ModelMetadata, seed: int) -> Iterator[Tensor]:
    if images is not None:
        return read_batches(images.files, metadata, BATCH_SIZE)
    return iter(random_images((8 * BATCH_SIZE, 3, *metadata.image_size), seed).split(BATCH_SIZE))
