"""``mobilemamba match``: widths that make a layout as fast, or as large, as a reference network."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobilemamba.argument_types import positive

HELP = "find widths at which a layout is as fast as a reference network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--reference", required=True, metavar="NETWORK", help="timm name, such as mobilemamba_s6")
    parser.add_argument(
        "--layout",
        required=True,
        help="three_stage, four_stage_cnn, four_stage_mamba, or an experiment's YAML file; gives the proportions",
    )
    parser.add_argument(
        "--metric",
        choices=("throughput", "latency", "macs"),
        default="throughput",
        help="what is to be alike: images per second, time of a single image, or multiply-accumulates "
        "(default: throughput)",
    )
    parser.add_argument("--tolerance", type=float, default=0.03, help="largest difference, a share (default: 0.03)")
    parser.add_argument(
        "--multiple", type=positive, default=8, metavar="CHANNELS", help="widths are multiples of this (default: 8)"
    )
    parser.add_argument("--device", default="cpu", help="PyTorch device (default: cpu)")
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="B",
        help="images per call, for throughput (default: 16; a GPU needs more)",
    )
    parser.add_argument(
        "--image-size",
        type=positive,
        nargs="+",
        metavar="PIXELS",
        help="height and width, or one for both (default: that of the reference)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--autocast", action="store_true", help="run in the device's mixed precision")
    parser.add_argument("--compile", action="store_true", help="run by torch.compile")
    parser.add_argument("--rounds", type=positive, default=20, metavar="N", help="timed rounds (default: 20)")
    parser.add_argument(
        "--repeats", type=positive, default=2, metavar="N", help="calls of each network in a round (default: 2)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="YAML file (default: LAYOUT_as_REFERENCE.yaml)")


def run(arguments: argparse.Namespace) -> None:
    """Search, print what was measured, write the arm.

    Raises:
        MatchError: When something asked for is not possible, or no widths match.
        BenchmarkError: When the reference or the device is not to be had.
        OSError: When the file cannot be written.
    """
    # Imported here: other subcommands need none of it.
    from experiments.matching.matching import match

    match(arguments)
