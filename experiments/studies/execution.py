"""``mobilemamba ablate`` from its options to its report."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from experiments.studies.definition import Layer, Study, flatten, read_study
from experiments.studies.devices import make_workers
from experiments.studies.disk import check_space
from experiments.studies.errors import StudyError
from experiments.studies.folder import check_unchanged, make_runs, write_plan
from experiments.studies.jobs import Launcher, lightning_program
from experiments.studies.local import LocalLauncher
from experiments.studies.lock import locked
from experiments.studies.overview import overview
from experiments.studies.plan import make_plan
from experiments.studies.progress import StudyProgress
from experiments.studies.runs import Run
from experiments.studies.schedule import run_all
from experiments.studies.slurm import ClusterLauncher, ClusterOptions


def ablate(arguments: argparse.Namespace) -> None:
    """Run a study, or what is left of it, and write its report.

    Args:
        arguments: As :mod:`experiments.studies.command` parses them.

    Raises:
        StudyError: When the study cannot be run as asked, or runs have failed twice.
        KeyboardInterrupt: After Ctrl-C, when all runs have ended.
        OSError: When a file cannot be read or written.
    """
    study = read_study(arguments.study)
    folder: Path = arguments.output or Path("runs") / "studies" / study.name
    _check_launcher(arguments, study, folder)
    plan = make_plan(study, extra_layer(arguments))
    runs = make_runs(plan, folder, arguments.arms, arguments.seeds)
    check_unchanged(plan, folder)
    unfinished = [run for run in runs if not run.is_finished()]
    check_space(plan, unfinished, folder)
    needed = {run.arm for run in unfinished}
    missing = next((arm.missing_data for arm in plan.arms if arm.name in needed and arm.missing_data), "")
    if arguments.dry_run:
        print(overview(plan, runs))
        if missing:
            print(f"It cannot be run as it is: {missing}")
        return
    if unfinished and missing:
        raise StudyError(missing)
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    with locked(folder) as lock, ExitStack() as shown:
        write_plan(plan, arguments.study, folder)
        launcher = _launcher(arguments, study, folder, () if lock is None else (lock,))
        progress = shown.enter_context(StudyProgress(len(runs), min(launcher.capacity, len(runs)), console))
        try:
            failed = run_all(runs, launcher, progress)
        except KeyboardInterrupt:
            shown.close()
            print(f"All runs were stopped. To go on:\n  {_same_command()}", flush=True)
            raise
    if len(failed) < len(runs):
        from experiments.studies.report import write_report  # imported here: tables and pictures are the end of hours

        try:
            write_report(folder)
        except Exception:
            if failed:  # said in any case, though the command ends with the other error
                print(_failures(failed, len(runs)), file=sys.stderr)
            raise
    if failed:
        raise StudyError(_failures(failed, len(runs)))


def extra_layer(arguments: argparse.Namespace) -> Layer:
    """Return what ``--config`` and ``--set`` add to the base.

    Raises:
        StudyError: When an option of ``--set`` is none, or belongs to the study.
    """
    given: dict[str, str] = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise StudyError(
                f"--set {text} is not possible: use NAME=VALUE, such as --set data.root=/path/to/imagenet."
            )
        if name in given:
            raise StudyError(f"--set gives {name} twice: leave one out.")
        given[name] = value
    return Layer(tuple(arguments.config), flatten(given, "--set"))


def _check_launcher(arguments: argparse.Namespace, study: Study, folder: Path) -> None:
    """Refuse devices or a cluster that are not to be had before the configs are resolved."""
    if arguments.launcher != "local" and (arguments.devices != "auto" or arguments.threads is not None):
        raise StudyError("--devices and --threads are for this machine: with a cluster, use --gpus and --cpus.")
    _launcher(arguments, study, folder, ())


def _launcher(arguments: argparse.Namespace, study: Study, folder: Path, inherited: Sequence[int]) -> Launcher:
    program = lightning_program()
    if arguments.launcher == "local":
        return LocalLauncher(make_workers(arguments.devices, arguments.threads), program, inherited)
    options = ClusterOptions(
        arguments.partition, arguments.time, arguments.gpus, arguments.cpus, arguments.parallel, arguments.cluster
    )
    return ClusterLauncher(folder / "jobs", study.name, program, options)


def _failures(failed: Sequence[Run], total: int) -> str:
    listed = "; ".join(f"{run.label}: {run.reason()}" for run in failed)
    return (
        f"{len(failed)} of {total} runs failed twice ({listed}). The fit.log of each has its output; run the same "
        "command to try them again."
    )


def _same_command() -> str:
    return shlex.join(["mobilemamba", *sys.argv[1:]])
