"""``mobilemamba report``: tables, pictures and TensorBoard entries of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

from mobilemamba.argument_types import positive

HELP = "compare the arms of a study: tables, intervals, pictures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("folder", type=Path, metavar="STUDY_FOLDER", help="what `mobilemamba ablate` has written")
    parser.add_argument("--device", default="cpu", help="PyTorch device to time the networks on (default: cpu)")
    parser.add_argument(
        "--batch-size", type=positive, default=16, metavar="B", help="images per call for the throughput (default: 16)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--autocast", action="store_true", help="time the networks in the device's mixed precision")
    parser.add_argument("--rounds", type=positive, default=20, metavar="N", help="timed rounds (default: 20)")
    parser.add_argument(
        "--no-speed", action="store_true", help="time nothing; what was timed before is in the report all the same"
    )
    parser.add_argument("--anew", action="store_true", help="time the networks again where that has been done")


def run(arguments: argparse.Namespace) -> None:
    """Write the report and print its table.

    Raises:
        ReportError: When the folder cannot be reported.
        BenchmarkError: When the device is not to be had.
        OSError: When a file cannot be written.
    """
    # Imported here: other subcommands need none of it.
    import torch

    from experiments.studies.report import write_report
    from experiments.studies.reporting.speed import SpeedSettings

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    names = ("device", "batch_size", "rounds", "autocast", "anew")
    speed = None if arguments.no_speed else SpeedSettings(**{name: getattr(arguments, name) for name in names})
    path = write_report(arguments.folder, speed)
    text = path.read_text()
    print(text[: text.index("\n![")])
    print(f"\nWritten to {path.parent}")
