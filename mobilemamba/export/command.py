"""``mobilemamba export``: a checkpoint becomes a fused file for deployment, checked against its network."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import get_args

from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import CheckpointError, load_published_weights, load_training_checkpoint
from mobilemamba.export.artifact import export_network, report_path
from mobilemamba.export.errors import ExportError, NotComparedWarning
from mobilemamba.export.options import ExportOptions, FormatName
from mobilemamba.export.parity import ParityReport
from mobilemamba.metadata import ModelMetadata
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
        "--output", type=Path, metavar="FILE", help="default: the checkpoint's name with the format's suffix"
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


def run(arguments: argparse.Namespace) -> None:
    """Export and print what was compared.

    Raises:
        ExportError: When an option does not fit; subclasses and those of :mod:`mobilemamba.checkpoints` pass through.
    """
    try:
        options = ExportOptions(arguments.format, arguments.dynamic_batch, arguments.dynamic_size, arguments.tolerance)
    except ValueError as error:
        raise ExportError(str(error)) from error
    network, metadata = _load(arguments)
    if arguments.image_size is not None:
        metadata = replace(metadata, image_size=tuple(arguments.image_size))
    output = arguments.output or arguments.checkpoint.with_suffix(options.suffix)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotComparedWarning)  # the table says it
        report = export_network(network, output, options, metadata)
    print(_table(output, report))


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
