"""``mobilemamba benchmark``: networks beside each other, in use or in training, as a table, JSON and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobilemamba.argument_types import not_negative, positive

HELP = "time networks beside each other, in use or in training"

FORMS = ("eager", "fused", "compiled", "compiled-eager", "onnx", "pt2", "openvino", "executorch", "litert")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("networks", nargs="*", default=["mobilemamba_s6"], help="timm names (default: mobilemamba_s6)")
    parser.add_argument("--reference", default="shvit_s3", help="network that ratios are to (default: shvit_s3)")
    parser.add_argument("--training", action="store_true", help="measure memory and time of a training step instead")
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=FORMS,
        default=["eager", "fused", "onnx"],
        help="eager: as trained; fused: norms folded; compiled: fused, torch.compile; compiled-eager: the same, not "
        "fused; others: fused, written in this export format and run by its own runtime on the CPU in float32 "
        "(default: eager fused onnx)",
    )
    parser.add_argument(
        "--batch-sizes",
        "--batch-size",
        nargs="+",
        type=positive,
        metavar="B",
        help="images per call, one or several numbers (default: 1; training: 16)",
    )
    parser.add_argument(
        "--image-size",
        nargs="+",
        type=positive,
        metavar="PIXELS",
        help="height and width of all networks, as one number or two (default: what each was published for)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--device", default="cpu", help="PyTorch device (default: cpu)")
    parser.add_argument("--autocast", action="store_true", help="run PyTorch in the device's mixed precision")
    parser.add_argument(
        "--warmup", type=not_negative, metavar="N", default=1, help="rounds before the timed ones (default: 1)"
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="timed rounds (default: 30; training: 5)")
    parser.add_argument(
        "--repeats", type=positive, metavar="N", default=3, help="calls of each form in a round (default: 3)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="JSON file (default: latency.json or training_step.json)"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="PNG file of published accuracy against measured latency"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write files.

    Raises:
        BenchmarkError: When a network, form or device is not to be had, or a form gives wrong answers.
        ExportError: When the packages of an export format are missing.
        OSError: When a file cannot be written.
    """
    # Imported here: other subcommands need none of it.
    from benchmarks.measurement import measure_latency, measure_training

    (measure_training if arguments.training else measure_latency)(arguments)
