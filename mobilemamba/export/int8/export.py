"""From a trained network to an int8 ONNX file that is known to keep its classes.

Export in float32 with all comparisons of :mod:`mobilemamba.export.export`; quantise that file with calibration images
(:mod:`.quantise`); ask both for the classes of other images; only then does the int8 file get its name.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import UserError
from mobilemamba.export.comparison import compare_logits
from mobilemamba.export.export import check_request, export_network, report_path
from mobilemamba.export.formats.onnx import load
from mobilemamba.export.int8.images import LabelledImages, choose_images, read_batches
from mobilemamba.export.int8.options import Int8Options
from mobilemamba.export.int8.quantise import quantise
from mobilemamba.export.int8.report import Int8Report
from mobilemamba.export.options import ExportOptions
from mobilemamba.export.parity import compare_runner, random_images
from mobilemamba.export.timing import interleaved
from mobilemamba.files import atomic_write
from mobilemamba.metadata import ModelMetadata

BATCH_SIZE = 8

TIMED_ROUNDS = 30


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
    if check_request(network, path, options, metadata) is not network or not isinstance(network, MobileMamba):
        raise UserError("int8 files are made of classifiers alone: leave int8 out.")
    if network.in_chans != 3:
        raise UserError(
            f"int8 files are calibrated with colour images; this network takes {network.in_chans} channels."
        )
    if not network.num_classes:
        raise UserError("int8 files are judged by their top class, but this network has no classifier: export float32.")
    calibration, compared = choose_images(int8, network.num_classes, metadata.class_names)
    batch_size = BATCH_SIZE if options.dynamic_batch else 1

    def batches(images: LabelledImages, activity: str) -> Iterator[Tensor]:
        count = math.ceil(len(images.files) / batch_size)
        progress = Console(stderr=True)  # so that what is printed alone can be piped
        read = read_batches(images.files, metadata, batch_size)
        return iter(track(read, activity, total=count, console=progress, transient=True))

    with tempfile.TemporaryDirectory() as folder, atomic_write(path) as unfinished:
        source = Path(folder) / path.name
        float_report = export_network(network, source, options, metadata)
        nodes = quantise(source, unfinished, batches(calibration, "Calibrating"))
        before, after = load(source), load(unfinished)
        logits = [
            (cast(Tensor, before(images)), cast(Tensor, after(images))) for images in batches(compared, "Comparing")
        ]
        expected, answers = (torch.cat(parts) for parts in zip(*logits, strict=True))
        comparison = compare_logits(expected, answers, (batch_size, network.in_chans, *metadata.image_size))
        image = random_images((1, network.in_chans, *metadata.image_size))
        calls = {"before": partial(before, image), "after": partial(after, image)}
        timings = interleaved(calls, TIMED_ROUNDS, 1, torch.device("cpu"))
        report = Int8Report(
            float_report=float_report,
            quantised_nodes=nodes,
            calibration_images=len(calibration.files),
            compared_images=len(compared.files),
            top1_agreement=comparison.top1_agreement,
            max_abs_error=comparison.max_abs_error,
            accuracy_before=compared.accuracy(expected),
            accuracy_after=compared.accuracy(answers),
            comparisons=compare_runner(before, after, [part.shape for part in float_report.comparisons]),
            min_agreement=int8.min_agreement,
            max_accuracy_drop=int8.max_accuracy_drop,
            milliseconds_before=timings["before"].minimum,
            milliseconds_after=timings["after"].minimum,
            size_bytes=unfinished.stat().st_size,
        )
        report.raise_if_refused()
        report_path(unfinished).write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    return report
