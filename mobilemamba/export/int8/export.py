"""From a trained network to an int8 ONNX file that is known to keep its classes.

Export in float32 with all comparisons of :mod:`mobilemamba.export.export`; quantise that file with calibration images
(:mod:`.quantise`); ask both for the classes of other images; only then does the int8 file get its name.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from mobilemamba.errors import UserError, require
from mobilemamba.export.export import check_request, export_network, report_path
from mobilemamba.export.formats.onnx import load
from mobilemamba.export.int8.images import FEWEST_IMAGES, LabelledImages, choose_images, read_batches
from mobilemamba.export.int8.quantise import quantise
from mobilemamba.export.int8.report import Int8Report
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import Runner, compare_logits, compare_runner, random_images
from mobilemamba.export.timing import interleaved
from mobilemamba.files import atomic_write
from mobilemamba.metadata import ModelMetadata

BATCH_SIZE = 8

TIMED_ROUNDS = 30


@dataclass(frozen=True)
class Int8Options:
    """How an int8 file is calibrated and judged.

    Args:
        calibration: Folder of images, in any depth, like those that the network will see.
        validation: Folder with one folder of images for each class, none of them in ``calibration``; None: other images
            of ``calibration`` are compared, without labels.
        calibration_images: Images that ranges of activations are taken from, at most.
        compared_images: Images that both files are asked for, at most.
        min_agreement: Least share of images with the same top class before and after, with labels and without.
        max_accuracy_drop: Largest drop of the accuracy, in percentage points; with labels this is asked for, too.

    Raises:
        UserError: When a number is out of range; names field, value and remedy.
    """

    calibration: Path
    validation: Path | None = None
    calibration_images: int = 256
    compared_images: int = 1000
    min_agreement: float = 0.9
    max_accuracy_drop: float = 1.0

    def __post_init__(self) -> None:
        """Check every field."""
        for field in ("calibration_images", "compared_images"):
            require(getattr(self, field) >= FEWEST_IMAGES, field, getattr(self, field), f"{FEWEST_IMAGES} or more")
        require(0 <= self.min_agreement <= 1, "min_agreement", self.min_agreement, "a share in [0, 1], such as 0.9")
        drop = self.max_accuracy_drop
        require(math.isfinite(drop) and drop >= 0, "max_accuracy_drop", drop, "percentage points, 0 or more")


def export_int8(
    network: nn.Module, path: str | Path, options: ExportOptions, int8: Int8Options, metadata: ModelMetadata
) -> Int8Report:
    """Export a network as an int8 ONNX file and compare it with the float32 file.

    Args:
        network: A MobileMamba in any mode, on any device, fused or not; it stays as it is.
        path: The file, which ends in .onnx. Its report is written beside it (:func:`mobilemamba.export.report_path`).
        options: Form of the float32 file.
        int8: Images, and what passes.
        metadata: Written into the file; says how images are prepared.

    Returns:
        The report, which passed.

    Raises:
        UserError: When the request does not fit, or there are too few images, before any work; or when the file in
            float32 or in int8 gives other answers than the network.
    """
    path = Path(path)
    if options.format != "onnx":
        raise UserError(f"int8 files are made in format 'onnx', not {options.format!r}: leave int8 out, or take onnx.")
    network = check_request(network, path, options, metadata)
    if network.in_chans != 3:
        raise UserError(
            f"int8 files are calibrated with colour images; this network takes {network.in_chans} channels."
        )
    if not network.num_classes:
        raise UserError("int8 files are judged by their top class, but this network has no classifier: export float32.")
    calibration, compared = choose_images(
        int8.calibration,
        int8.validation,
        (int8.calibration_images, int8.compared_images),
        network.num_classes,
        metadata.class_names,
    )
    batch_size = BATCH_SIZE if options.dynamic_batch else 1
    with tempfile.TemporaryDirectory() as folder, atomic_write(path) as unfinished:
        source = Path(folder) / path.name
        float_report = export_network(network, source, options, metadata)
        batches = read_batches(calibration.files, metadata, batch_size)
        nodes = quantise(source, unfinished, _shown(batches, calibration, batch_size, "Calibrating"))
        before, after = load(source), load(unfinished)
        batches = read_batches(compared.files, metadata, batch_size)
        logits = [(before(x), after(x)) for x in _shown(batches, compared, batch_size, "Comparing")]
        expected, answers = (torch.cat(parts) for parts in zip(*logits, strict=True))
        shape = (batch_size, network.in_chans, *metadata.image_size)
        comparison = compare_logits(expected, answers, shape)
        milliseconds = _times(before, after, random_images((1, *shape[1:])))
        report = Int8Report(
            float_report=float_report,
            quantised_nodes=nodes,
            calibration_images=len(calibration.files),
            compared_images=len(compared.files),
            top1_agreement=comparison.top1_agreement,
            max_abs_error=comparison.max_abs_error,
            accuracy_before=_accuracy(expected, compared),
            accuracy_after=_accuracy(answers, compared),
            comparisons=compare_runner(before, after, [part.shape for part in float_report.comparisons]),
            min_agreement=int8.min_agreement,
            max_accuracy_drop=int8.max_accuracy_drop,
            milliseconds_before=milliseconds[0],
            milliseconds_after=milliseconds[1],
            size_bytes=unfinished.stat().st_size,
        )
        report.raise_if_refused()
        report_path(unfinished).write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    return report


def _accuracy(logits: Tensor, images: LabelledImages) -> float | None:
    if images.targets is None:
        return None
    return (logits.argmax(1) == torch.tensor(images.targets)).double().mean().item()


def _times(before: Runner, after: Runner, image: Tensor) -> tuple[float, float]:
    calls = {"before": partial(before, image), "after": partial(after, image)}
    timings = interleaved(calls, TIMED_ROUNDS, 1, torch.device("cpu"))
    return timings["before"].minimum, timings["after"].minimum


def _shown(batches: Iterator[Tensor], images: LabelledImages, batch_size: int, what: str) -> Iterator[Tensor]:
    """Go through batches with a progress bar on the error stream."""
    count = math.ceil(len(images.files) / batch_size)
    return iter(track(batches, what, total=count, console=Console(stderr=True), transient=True))
