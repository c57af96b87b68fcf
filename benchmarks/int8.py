"""Int8 files for ONNX Runtime: which parts of a network to quantise, what that saves and what it costs.

::

    python -m benchmarks.int8 mobilemamba_s6 --threads 1
    python -m benchmarks.int8 --checkpoint RUN/checkpoints/best.ckpt --calibration PHOTOS --validation imagenet/val

The first form takes random weights, which show times and errors but no accuracy; its images are random, too.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import Tensor

from benchmarks.formats import CPU, trained_looking
from benchmarks.threads import set_threads
from mobilemamba import MobileMamba, ModelMetadata
from mobilemamba.argument_types import positive
from mobilemamba.checkpoints import load_training_checkpoint
from mobilemamba.environment import environment
from mobilemamba.export import ExportOptions, export_network
from mobilemamba.export.formats.onnx import load
from mobilemamba.export.int8.export import Int8Options
from mobilemamba.export.int8.images import LabelledImages, choose_images, read_batches
from mobilemamba.export.int8.quantise import quantise, quantised_nodes
from mobilemamba.export.parity import compare_logits, random_images
from mobilemamba.export.timing import Timing, interleaved
from mobilemamba.files import write_json
from mobilemamba.tables import table

BATCH_SIZE = 8

Choice = Callable[[onnx.GraphProto], list[str]]


def _with(*operators: str) -> Choice:
    """Quantise what is exported in int8, and all nodes of these operators."""

    def choose(graph: onnx.GraphProto) -> list[str]:
        chosen = set(quantised_nodes(graph))
        return [node.name for node in graph.node if node.name in chosen or node.op_type in operators]

    return choose


def _only(operator: str) -> Choice:
    """Quantise of what is exported in int8 the nodes of one operator."""

    def choose(graph: onnx.GraphProto) -> list[str]:
        chosen = set(quantised_nodes(graph))
        return [node.name for node in graph.node if node.name in chosen and node.op_type == operator]

    return choose


PARTS: dict[str, Choice] = {
    "as exported": quantised_nodes,
    "convolutions alone": _only("Conv"),
    "and depthwise": _with("Conv"),
    "and the classifier": _with("Gemm"),
    "and sums, products, gates": _with("Add", "Mul", "Sub", "Sigmoid", "Relu", "Split", "Concat", "Transpose"),
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


def main(arguments: list[str] | None = None) -> None:
    """Quantise, compare and time; print a table and write JSON."""
    options = _parser().parse_args(arguments)
    set_threads(options.threads or torch.get_num_threads())
    name, network, metadata, calibration, compared = _source(options)
    results = measure(network, metadata, calibration, compared, options.rounds)
    about = environment(CPU)
    count = "random" if calibration is None or compared is None else f"{len(compared.files)}"
    print(f"{name}, {about['device']}, threads: {about['threads']}, batch 1; compared on {count} images\n")
    print(format_results(results))
    content = {"environment": about, "network": name, "results": [asdict(result) for result in results]}
    write_json(options.output, content)
    print(f"\nWritten to {options.output}")


def measure(
    network: MobileMamba,
    metadata: ModelMetadata,
    calibration: LabelledImages | None,
    compared: LabelledImages | None,
    rounds: int,
) -> list[Result]:
    """Quantise every choice of parts, the float32 file first, and time all files in turn.

    Args:
        network: The network.
        metadata: How images are prepared.
        calibration: Images to calibrate with; None for random ones.
        compared: Images to compare on; None for random ones.
        rounds: Timed rounds.
    """
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
        accuracy = None
        if compared is not None and compared.targets is not None:
            accuracy = (answers.argmax(1) == torch.tensor(compared.targets)).double().mean().item()
        error, agreement = comparison.max_abs_error, comparison.top1_agreement
        results.append(Result(part, nodes[part], timings[part], error, agreement, accuracy, sizes[part]))
    return results


def format_results(results: list[Result]) -> str:
    """Return a Markdown table."""
    base = results[0].timing.minimum
    rows = [
        (
            result.part,
            str(result.nodes),
            f"{result.timing.minimum:.2f}",
            f"{result.timing.minimum / base:.2f}",
            f"{result.max_abs_error:.3f}",
            f"{result.top1_agreement:.1%}",
            "-" if result.accuracy is None else f"{result.accuracy:.2%}",
            f"{result.size_bytes / 1e6:.1f}",
        )
        for result in results
    ]
    header = ("in int8", "nodes", "ms", "ms / float32", "error", "same top class", "accuracy", "MB")
    return table(header, rows)


def _batches(images: LabelledImages | None, metadata: ModelMetadata, seed: int) -> Iterator[Tensor]:
    if images is not None:
        return read_batches(images.files, metadata, BATCH_SIZE)
    return iter(random_images((8 * BATCH_SIZE, 3, *metadata.image_size), seed).split(BATCH_SIZE))


def _source(
    options: argparse.Namespace,
) -> tuple[str, MobileMamba, ModelMetadata, LabelledImages | None, LabelledImages | None]:
    if options.checkpoint is None:
        network, image_size = trained_looking(options.network)
        return options.network, network, ModelMetadata(image_size), None, None
    if options.calibration is None:
        raise SystemExit("--checkpoint needs --calibration FOLDER: images to calibrate and compare with.")
    network, metadata = load_training_checkpoint(options.checkpoint)
    given = Int8Options(options.calibration, options.validation)
    images = choose_images(
        given.calibration,
        given.validation,
        (given.calibration_images, given.compared_images),
        network.num_classes,
        metadata.class_names,
    )
    return str(options.checkpoint), network, metadata, *images


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.int8", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", nargs="?", default="mobilemamba_s6", help="timm name (default: mobilemamba_s6)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="of `lightning fit`, in place of a timm name")
    parser.add_argument("--calibration", type=Path, metavar="FOLDER", help="images, for a checkpoint")
    parser.add_argument("--validation", type=Path, metavar="FOLDER", help="other images in folders of their classes")
    parser.add_argument("--threads", type=positive, help="(default: PyTorch's choice)")
    parser.add_argument("--rounds", type=positive, default=30, help="timed rounds of 3 calls (default: 30)")
    parser.add_argument("--output", type=Path, default=Path("int8.json"), help="JSON file (default: int8.json)")
    return parser


if __name__ == "__main__":
    main()
