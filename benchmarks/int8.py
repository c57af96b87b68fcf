"""Int8 files for ONNX Runtime: which parts of a network to quantise, what that saves and what it costs.

::

    python -m benchmarks int8 mobilemamba_s6 --threads 1
    python -m benchmarks int8 --checkpoint RUN/checkpoints/best.ckpt --calibration PHOTOS --validation imagenet/val

The first form takes random weights, which show times and errors but no accuracy; its images are random, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import onnx
import torch
from jsonargparse.typing import PositiveInt
from torch import Tensor

from benchmarks.formats import trained_looking
from benchmarks.forms import CPU, set_threads
from benchmarks.publish import table_of, write_results
from mobilemamba import MobileMamba, ModelMetadata
from mobilemamba.checkpoints import load_training_checkpoint
from mobilemamba.environment import device_name
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, export_network
from mobilemamba.export.formats.onnx import load
from mobilemamba.export.int8.images import LabelledImages, choose_images, read_batches
from mobilemamba.export.int8.options import Int8Options
from mobilemamba.export.int8.quantise import quantise, quantised_nodes
from mobilemamba.export.parity import compare_logits, random_images
from mobilemamba.export.timing import Timing, interleaved

BATCH_SIZE = 8

Choice = Callable[[onnx.GraphProto], list[str]]


def _nodes(is_chosen: Callable[[str, bool], bool]) -> Choice:
    """Choose nodes by their operator and whether they are exported in int8."""

    def choose(graph: onnx.GraphProto) -> list[str]:
        exported = set(quantised_nodes(graph))
        return [node.name for node in graph.node if is_chosen(node.op_type, node.name in exported)]

    return choose


MANY = ("Add", "Mul", "Sub", "Sigmoid", "Relu", "Split", "Concat", "Transpose")
PARTS: dict[str, Choice] = {
    "as exported": quantised_nodes,
    "convolutions alone": _nodes(lambda operator, is_exported: is_exported and operator == "Conv"),
    "and depthwise": _nodes(lambda operator, is_exported: is_exported or operator == "Conv"),
    "and the classifier": _nodes(lambda operator, is_exported: is_exported or operator == "Gemm"),
    "and sums, products, gates": _nodes(lambda operator, is_exported: is_exported or operator in MANY),
}


@dataclass(frozen=True)
class Result:
    """One file.

    Args:
        part: What is in int8.
        nodes: Number of quantised nodes.
        timing: Milliseconds for a single image.
        max_abs_error: Largest difference of a logit from the float32 file, relative to the largest logit.
        top1_agreement: Share of images with the same top class as by the float32 file.
        accuracy: Share of images in their class; None without labels.
        size_bytes: Size of the file.
    """

    part: str
    nodes: int
    timing: Timing
    max_abs_error: float
    top1_agreement: float
    accuracy: float | None
    size_bytes: int


def int8(
    network: str = "mobilemamba_s6",
    checkpoint: Path | None = None,
    calibration: Path | None = None,
    validation: Path | None = None,
    threads: PositiveInt | None = None,
    rounds: PositiveInt = 30,
    output: Path = Path("int8.json"),
) -> None:
    """Quantise parts of a network, compare and time the files.

    Args:
        network: timm name of a MobileMamba, with random weights.
        checkpoint: Checkpoint of `lightning fit`, in place of a timm name.
        calibration: Folder of images, for a checkpoint.
        validation: Other images in folders of their classes.
        threads: CPU threads. Null: PyTorch's choice.
        rounds: Timed rounds of three calls.
        output: JSON file.

    Raises:
        UserError: When a checkpoint comes without images.
    """
    set_threads(threads or torch.get_num_threads())
    name = network
    images: tuple[LabelledImages | None, LabelledImages | None] = (None, None)
    if checkpoint is None:
        model, size = trained_looking(network)
        metadata = ModelMetadata(size)
    elif calibration is None:
        raise UserError("--checkpoint needs --calibration FOLDER: images to calibrate and compare with.")
    else:
        name, (model, metadata) = str(checkpoint), load_training_checkpoint(checkpoint)
        images = choose_images(Int8Options(calibration, validation), model.num_classes, metadata.class_names)
    results = measure(model, metadata, *images, rounds)
    count = "random" if images[1] is None else f"{len(images[1].files)}"
    print(f"{name}, {device_name(CPU)}, batch 1; compared on {count} images\n")
    print(format_results(results))
    write_results(output, CPU, network=name, results=[asdict(result) for result in results])


def measure(
    network: MobileMamba,
    metadata: ModelMetadata,
    calibration: LabelledImages | None,
    compared: LabelledImages | None,
    rounds: int,
) -> list[Result]:
    """Quantise every choice of parts, the float32 file first, and time all files in turn; None are random images."""
    image = random_images((1, 3, *metadata.image_size))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "float32.onnx"
        export_network(network, source, ExportOptions(), metadata)
        nodes, files = {"nothing (float32)": 0}, {"nothing (float32)": source}
        for number, (part, choose) in enumerate(PARTS.items()):
            files[part] = Path(folder) / f"{number}.onnx"
            nodes[part] = quantise(source, files[part], _batches(calibration, metadata, 1), choose)
        runners = {part: load(file) for part, file in files.items()}
        logits = {
            part: torch.cat([runner(batch) for batch in _batches(compared, metadata, 2)])
            for part, runner in runners.items()
        }
        timings = interleaved({part: partial(runner, image) for part, runner in runners.items()}, rounds, 3, CPU)
        sizes = {part: file.stat().st_size for part, file in files.items()}
    expected = logits["nothing (float32)"]
    results = []
    for part, answers in logits.items():
        comparison = compare_logits(expected, answers, (BATCH_SIZE, *image.shape[1:]))
        accuracy = None if compared is None else compared.accuracy(answers)
        error, agreement = comparison.max_abs_error, comparison.top1_agreement
        results.append(Result(part, nodes[part], timings[part], error, agreement, accuracy, sizes[part]))
    return results


def format_results(results: list[Result]) -> str:
    """Return a Markdown table."""
    base = results[0].timing.minimum
    return table_of(
        results,
        {
            "in int8": lambda result: result.part,
            "nodes": lambda result: str(result.nodes),
            "ms": lambda result: f"{result.timing.minimum:.2f}",
            "ms / float32": lambda result: f"{result.timing.minimum / base:.2f}",
            "error": lambda result: f"{result.max_abs_error:.3f}",
            "same top class": lambda result: f"{result.top1_agreement:.1%}",
            "accuracy": lambda result: "-" if result.accuracy is None else f"{result.accuracy:.2%}",
            "MB": lambda result: f"{result.size_bytes / 1e6:.1f}",
        },
    )


def _batches(images: LabelledImages | None, metadata: ModelMetadata, seed: int) -> Iterator[Tensor]:
    if images is not None:
        return read_batches(images.files, metadata, BATCH_SIZE)
    return iter(random_images((8 * BATCH_SIZE, 3, *metadata.image_size), seed).split(BATCH_SIZE))
