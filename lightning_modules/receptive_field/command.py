"""``mobilemamba erf``: effective receptive fields of networks, side by side as a picture, a table and JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "draw and measure effective receptive fields of networks, side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="timm names and checkpoints of `lightning fit`")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="photographs, also in folders below (default: random normal images)",
    )
    parser.add_argument("--count", type=int, default=50, help="images (default: 50)")
    parser.add_argument(
        "--image-size",
        type=int,
        default=256,
        metavar="PIXELS",
        help="height and width, the same for all networks (default: 256, a multiple of the usual strides)",
    )
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help="weights for one of the timm names, such as published ones; may be repeated",
    )
    parser.add_argument(
        "--weights", choices=("ema", "raw"), default="ema", help="averaged or raw, of checkpoints (default: ema)"
    )
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="take timm's pretrained weights for timm names; without, their weights are random and show the receptive "
        "field before training",
    )
    parser.add_argument(
        "--radii",
        type=int,
        nargs="+",
        default=[8, 16, 32, 64, 128],
        metavar="PIXELS",
        help="circles whose shares are printed (default: 8 16 32 64 128)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("erf.png"),
        metavar="FILE",
        help="picture, with a .json beside it (default: erf.png)",
    )
    parser.add_argument("--device", default="cpu", help="PyTorch device (default: cpu)")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, write a picture and its numbers.

    Raises:
        ReceptiveFieldError: When an option does not fit or a network cannot be measured; errors of
            :mod:`mobilemamba.checkpoints` and of the operating system pass through.
    """
    # Imported here: other subcommands need none of it.
    from lightning_modules.receptive_field.measurement import measure

    measure(arguments)
