"""``mobilemamba ablate``: runs a study and writes its report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt
from rich.console import Console

from experiments.studies.definition import Layer, flatten, read_study
from experiments.studies.devices import Worker, make_workers
from experiments.studies.folder import check_unchanged, make_runs, write_plan
from experiments.studies.local import LocalLauncher
from experiments.studies.plan import Plan, fit_options, make_plan
from experiments.studies.progress import StudyProgress
from experiments.studies.runs import Run, lightning_program
from experiments.studies.schedule import Launcher, run_all
from experiments.studies.slurm import ClusterLauncher
from lightning_modules.folder_lock import locked
from mobilemamba.errors import UserError
from mobilemamba.tables import table


def ablate(
    study: Path,
    dry_run: bool = False,
    output: Path | None = None,
    config: list[Path] | None = None,
    set: list[str] | None = None,
    arms: list[str] | None = None,
    seeds: list[int] | None = None,
    devices: str = "auto",
    threads: PositiveInt | None = None,
    launcher: Literal["local", "slurm"] = "local",
    partition: str | None = None,
    time: PositiveInt = 24 * 60,
    gpus: NonNegativeInt = 1,
    cpus: PositiveInt = 8,
    parallel: PositiveInt = 256,
    cluster: Literal["slurm", "local"] = "slurm",
) -> None:
    """Train all arms of a study with all seeds, or continue it, and report.

    Args:
        study: YAML file, such as experiments/ablations/stages.yaml.
        dry_run: Check the study and print its arms, without running any.
        output: The study's folder. Null: runs/studies/NAME.
        config: Config of lightning fit, such as another scale; overrides all files of the study, but not an arm's
            overrides; may be repeated.
        set: Option of lightning fit as NAME=VALUE, such as data.root=/path/to/imagenet; may be repeated.
        arms: Run only these arms.
        seeds: Run only these seeds.
        devices: Devices of this machine: auto, one run at a time with all devices; cpu:N, N runs at a time; 0,1, two
            runs at a time, each with the GPU of that number; 0+1,2+3, two with two GPUs each.
        threads: CPU threads of a run. Null: a share of the cores.
        launcher: This machine or a SLURM cluster, which needs submitit.
        partition: SLURM partition. Null: the cluster's default.
        time: Time limit of a SLURM job in minutes; the run continues in another job.
        gpus: GPUs of a run on the cluster.
        cpus: CPU cores per GPU on the cluster.
        parallel: Largest number of jobs at a time on the cluster.
        cluster: submitit's executor; local runs the same jobs on this machine, for a test.

    Raises:
        UserError: When the study cannot be run with these options, or runs have failed twice.
        KeyboardInterrupt: After Ctrl-C, when all runs have ended.
        OSError: When a file cannot be read or written.
    """
    defined = read_study(study)
    folder = output or Path("runs") / "studies" / defined.name
    program = lightning_program()
    workers: tuple[Worker, ...] = ()
    on_cluster: ClusterLauncher | None = None
    # Missing devices or a missing cluster are reported before configs are resolved.
    if launcher == "local":
        workers = make_workers(devices, threads)
    elif devices != "auto" or threads is not None:
        raise UserError("--devices and --threads are for this machine: with a cluster, use --gpus and --cpus.")
    else:
        on_cluster = ClusterLauncher(
            folder / "jobs",
            defined.name,
            program,
            partition=partition,
            minutes=time,
            gpus=gpus,
            cpus=cpus,
            parallel=parallel,
            cluster=cluster,
        )
    plan = make_plan(defined, extra_layer(config or [], set or []))
    runs = make_runs(plan, folder, arms, seeds)
    check_unchanged(plan, folder)
    needed = {run.arm for run in runs if not run.is_finished()}
    missing = next((arm.missing_data for arm in plan.arms if arm.name in needed and arm.missing_data), "")
    if dry_run:
        print(_overview(plan, runs))
        if missing:
            print(f"The study cannot be run: {missing}")
        return
    if missing:
        raise UserError(missing)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "--output") as lock, ExitStack() as shown:
        write_plan(plan, study, folder)
        place: Launcher = on_cluster or LocalLauncher(workers, program, (lock,))
        progress = shown.enter_context(StudyProgress(len(runs), min(place.capacity, len(runs)), Console()))
        try:
            failed = run_all(runs, place, progress)
        except KeyboardInterrupt:
            shown.close()
            print(f"All runs were stopped. To continue:\n  {shlex.join(['mobilemamba', *sys.argv[1:]])}", flush=True)
            raise
    listed = "; ".join(f"{run.label}: {run.reason()}" for run in failed)
    failures = (
        f"{len(failed)} of {len(runs)} runs failed twice ({listed}). The fit.log of each has its output; run the same "
        "command to try them again."
    )
    if len(failed) < len(runs):
        # Slow to import, and needed only at the end.
        from experiments.studies.report.command import write_report

        try:
            path = write_report(folder)
            tables = path.read_text(encoding="utf-8").partition("\n![")[0]  # without the pictures
            print(f"{tables}\n\nThe whole report: {path}")
        except Exception:
            if failed:  # print this too, since the command ends with the other error
                print(failures, file=sys.stderr)
            raise
    if failed:
        raise UserError(failures)


def extra_layer(configs: Sequence[Path], options: Sequence[str]) -> Layer:
    """Return the layer of ``--config`` and ``--set``.

    Raises:
        UserError: When an option of ``--set`` is malformed, or belongs to the study.
    """
    given: dict[str, str] = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text} must be NAME=VALUE, such as --set data.root=/path/to/imagenet.")
        if name in given:
            raise UserError(f"--set gives {name} twice: leave one out.")
        given[name] = value
    return Layer(tuple(configs), flatten(given, "--set"))


def _overview(plan: Plan, runs: Sequence[Run]) -> str:
    """Return a table of all arms, and the number of runs."""
    rows = []
    for planned in plan.arms:
        layer = planned.arm.layer
        changes = [path.name for path in layer.configs]
        changes += [option.removeprefix("--") for option in fit_options(layer.overrides)]
        rows.append(
            [
                f"{planned.name}{' *' if planned.name == plan.study.compare_with else ''}",
                planned.arm.group,
                f"{planned.parameters:,}",
                "x".join(map(str, planned.image_size)),
                str(planned.config["trainer"]["max_epochs"]),
                " ".join(changes),
            ]
        )
    header = ["arm", "group", "parameters", "image", "epochs", "differs from the base by"]
    return (
        f"{table(header, rows)}\n\n* is the arm that the others are compared with. "
        f"Seeds {', '.join(map(str, plan.study.seeds))}. {len(runs)} runs, of which "
        f"{sum(run.is_finished() for run in runs)} are finished."
    )
