"""``mobilemamba ablate``: run a study, or go on with it."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train all arms of a study with all seeds, or go on with it, and report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "study", type=Path, metavar="STUDY", help="YAML file, such as experiments/ablations/stages.yaml"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the study and print its arms, without running any"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="the study's folder (default: runs/studies/NAME)")
    base = parser.add_argument_group("base", "what all arms share besides the study's own base")
    base.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="config of lightning fit, such as another scale; wins over all files of the study, but not over overrides "
        "of an arm; may be repeated",
    )
    base.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="option of lightning fit, such as data.root=/path/to/imagenet; may be repeated",
    )
    part = parser.add_argument_group("part", "what to run of the study")
    part.add_argument("--arms", nargs="+", metavar="ARM", help="these arms alone")
    part.add_argument("--seeds", nargs="+", type=int, metavar="S", help="these seeds alone")
    place = parser.add_argument_group("place", "where to run")
    place.add_argument(
        "--devices",
        default="auto",
        help="on this machine: auto, one run at a time with all devices (default); cpu:N, N runs at a time; 0,1, two "
        "runs at a time, each with the GPU of that number; 0+1,2+3, two with two GPUs each",
    )
    place.add_argument("--threads", type=int, metavar="N", help="CPU threads of a run (default: a share of the cores)")
    place.add_argument(
        "--launcher", choices=("local", "slurm"), default="local", help="this machine or a SLURM cluster"
    )
    cluster = parser.add_argument_group("cluster", "with --launcher slurm; needs submitit")
    cluster.add_argument("--partition", metavar="NAME", help="SLURM partition (default: the cluster's)")
    cluster.add_argument(
        "--time",
        type=int,
        default=24 * 60,
        metavar="MINUTES",
        help="time limit of a job, which goes on in another one (default: 1440)",
    )
    cluster.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs of a run (default: 1)")
    cluster.add_argument("--cpus", type=int, default=8, metavar="N", help="CPU cores per GPU (default: 8)")
    cluster.add_argument("--parallel", type=int, default=256, metavar="N", help="most jobs at a time (default: 256)")
    cluster.add_argument(
        "--cluster",
        choices=("slurm", "local"),
        default="slurm",
        help="submitit's executor; local runs the same jobs on this machine, to try them (default: slurm)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the study.

    Raises:
        StudyError: When it cannot be run as asked, or runs have failed; errors of the operating system pass through.
    """
    # Imported here: other subcommands need none of it.
    from experiments.studies.execution import ablate

    ablate(arguments)
