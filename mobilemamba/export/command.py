"""``mobilemamba export``: a checkpoint becomes a fused file for deployment, checked against its network."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from pathlib import Path
from typing import get_args

from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import CheckpointError, load_published_weights, load_training_checkpoint
from mobilemamba.export.artifact import export_network, report_path
from mobilemamba.export.errors import ExportError, NotComparedWarning
from mobilemamba.export.int8 import Int8Options, export_int8
from mobilemamba.export.int8_report import Int8Report
from mobilemamba.export.options import ExportOptions, FormatName
from mobilemamba.export.parity import ParityReport
from mobilemamba.metadata import ModelMetadata
from mobilemamba.tables import table
from mobilemamba.variants import VARIANTS

HELP = "write a checkpoint as a file for deployment, BatchNorm folded, compared with its network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    defaults = ExportOptions()
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="checkpoint of `lightning fit`, or with --variant a published weights file",
    )
    parser.add_argument(
        "--variant", choices=sorted(VARIANTS), help="network of a published weights file; checkpoints know their own"
    )
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averaged or raw (default: ema)")
    parser.add_argument(
        "--format", choices=get_args(FormatName), default=defaults.format, help=f"(default: {defaults.format})"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="default: the checkpoint's name with the format's suffix, or .int8.onnx",
    )
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="pixels (default: the evaluation size of the checkpoint)",
    )
    parser.add_argument(
        "--dynamic-batch",
        action=argparse.BooleanOptionalAction,
        default=defaults.dynamic_batch,
        help="take any batch size (default) or single images",
    )
    parser.add_argument(
        "--dynamic-size",
        action=argparse.BooleanOptionalAction,
        default=defaults.dynamic_size,
        help="take images of any height and width, or of one size (default)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=defaults.tolerance,
        help=f"largest difference allowed, relative to the largest logit (default: {defaults.tolerance:g})",
    )
    _add_int8_arguments(parser)


def _add_int8_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "int8", "weights and activations in int8, for ONNX Runtime; judged by the classes it gives to images"
    )
    group.add_argument("--int8", action="store_true", help="write an int8 file; needs --calibration")
    group.add_argument(
        "--calibration", type=Path, metavar="FOLDER", help="images like those to come, in any depth of folders"
    )
    group.add_argument(
        "--validation",
        type=Path,
        metavar="FOLDER",
        help="other images, a folder for each class: accuracy before and after is compared, beside the top classes by "
        "both files (default: other images of --calibration, whose top classes alone are compared)",
    )
    for field, metavar, text in (
        ("calibration_images", "N", "images to calibrate with, at most"),
        ("compared_images", "N", "images to compare on, at most"),
        (
            "min_agreement",
            "SHARE",
            "least share of images with the same top class before and after, with --validation and without",
        ),
        ("max_accuracy_drop", "POINTS", "largest drop of the accuracy on --validation, in percentage points"),
    ):
        default = getattr(Int8Options, field)
        group.add_argument(
            f"--{field.replace('_', '-')}",
            type=type(default),
            metavar=metavar,
            help=f"{text} (default: {default:g})",
        )


def run(arguments: argparse.Namespace) -> None:
    """Export and print what was compared.

    Raises:
        ExportError: When an option does not fit; subclasses and those of :mod:`mobilemamba.checkpoints` pass through.
    """
    try:
        options = ExportOptions(arguments.format, arguments.dynamic_batch, arguments.dynamic_size, arguments.tolerance)
        int8 = _int8_options(arguments)
    except ValueError as error:
        raise ExportError(str(error)) from error
    network, metadata = _load(arguments)
    if arguments.image_size is not None:
        metadata = dataclasses.replace(metadata, image_size=tuple(arguments.image_size))
    suffix = f".int8{options.suffix}" if int8 else options.suffix
    output = arguments.output or arguments.checkpoint.with_suffix(suffix)
    if int8 is not None:
        print(_int8_table(output, export_int8(network, output, options, int8, metadata)))
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotComparedWarning)  # the table says it
        report = export_network(network, output, options, metadata)
    print(_table(output, report))


def _int8_options(arguments: argparse.Namespace) -> Int8Options | None:
    fields = [field.name for field in dataclasses.fields(Int8Options)]
    given = {field: getattr(arguments, field) for field in fields if getattr(arguments, field) is not None}
    if not arguments.int8:
        if given:
            raise ValueError(f"--{next(iter(given)).replace('_', '-')} belongs to --int8: add that, or leave it out.")
        return None
    if arguments.calibration is None:
        raise ValueError("--int8 needs --calibration FOLDER: images that the ranges of activations are taken from.")
    return Int8Options(**given)


def _load(arguments: argparse.Namespace) -> tuple[MobileMamba, ModelMetadata]:
    if arguments.variant is None:
        try:
            return load_training_checkpoint(arguments.checkpoint, arguments.weights)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error} If these are published weights, name their network by --variant."
            ) from error
    variant = VARIANTS[arguments.variant]
    network = load_published_weights(MobileMamba(variant.config), arguments.checkpoint, arguments.weights)
    return network, ModelMetadata(image_size=(variant.image_size, variant.image_size))


def _table(path: Path, report: ParityReport) -> str:
    """Return the report as text."""
    lines = [f"{path}  ({report.size_bytes / 1e6:.1f} MB)", ""]
    if report.verdict == "converted, not run":
        lines.append(
            f"CONVERTED, NOT RUN: this system has no {report.format} runtime, so the file was NOT compared with its "
            "network. Do so where it runs."
        )
    else:
        lines += [
            f"{'batch of images':<22}{'images':>8}{'largest difference':>20}{'same top class':>18}",
            *(
                f"{' x '.join(map(str, comparison.shape)):<22}{comparison.images:>8}{comparison.max_abs_error:>20.1e}"
                f"{comparison.top1_agreement:>18.1%}"
                for comparison in report.comparisons
            ),
            "",
            f"Differences are relative to the largest logit; tolerance {report.tolerance:g}.",
        ]
        if not report.conclusive:
            lines.append(
                "Note: this network hardly distinguishes images, as before training: the comparison proves little."
            )
    lines += [f"Fusion alone, in float64: {report.fuse_max_abs_error:.1e}.", f"Report: {report_path(path)}"]
    return "\n".join(lines)


def _int8_table(path: Path, report: Int8Report) -> str:
    """Return the report of an int8 file as text."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{share:.2%}"

    before, after = report.milliseconds_before, report.milliseconds_after
    rows = [
        ("float32", percent(report.accuracy_before), report.float_report.size_bytes, before),
        ("int8", percent(report.accuracy_after), report.size_bytes, after),
    ]
    lines = [
        f"{path}  ({report.size_bytes / 1e6:.1f} MB, {report.quantised_nodes} nodes in int8)",
        "",
        table(
            ("weights", "accuracy", "MB", "ms per image"),
            [(name, accuracy, f"{size / 1e6:.1f}", f"{time:.2f}") for name, accuracy, size, time in rows],
        ),
        "",
        f"Same top class for {report.top1_agreement:.2%} of {report.compared_images} images, none of the "
        f"{report.calibration_images} it was calibrated with; logits differ by up to {report.max_abs_error:.1%} of the "
        "largest.",
    ]
    if after >= before:
        lines.append("On this machine the int8 file is no faster: its use is its size.")
    lines.append(f"Report: {report_path(path)}")
    return "\n".join(lines)
