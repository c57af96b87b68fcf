"""Runs as jobs of submitit, with the executors that need no cluster, and with what it would tell SLURM."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from experiments.studies import slurm
from experiments.studies.runs import Run
from experiments.studies.slurm import ClusterLauncher, FitTask
from tests.experiments.studies.conftest import Fake

pytest.importorskip("submitit")

Ablate = Callable[..., int]


@pytest.fixture
def ablate_by_jobs(study: Path) -> Ablate:
    def run(*options: str) -> int:
        return main(["ablate", str(study), "--launcher", "slurm", *options])

    return run


def test_runs_are_jobs_of_their_own(ablate_by_jobs: Ablate, fake: Fake, folder: Path) -> None:
    assert ablate_by_jobs("--cluster", "local", "--gpus", "0", "--seeds", "0", "--arms", "plain") == 0
    assert fake.started == [("plain", "seed_0")]
    assert (folder / "runs" / "plain" / "seed_0" / "fit.log").is_file()
    assert not list(folder.rglob("slurm_job.txt"))


COMMANDS = {
    "sbatch": 'number=$(($(ls "$HERE" | grep -c script) + 77)); cp "$1" "$HERE/script_$number"; '
    'echo "Submitted batch job $number"',
    "srun": "exit 1",
    "sacct": 'echo "JobID|State|NodeList"; for id in 77_0 77_1 78; do echo "$id|PENDING|"; done',
    "scancel": 'echo "$1" >> "$HERE/cancelled"',
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand-ins for SLURM's commands, and the folder in which they note what they were told."""
    here, commands = tmp_path / "cluster", tmp_path / "commands"
    here.mkdir()
    commands.mkdir()
    for name, body in COMMANDS.items():
        (commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("HERE", str(here))
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    return here


def runs_in(folder: Path) -> list[Run]:
    return [Run("a", seed, folder / "runs" / "a" / f"seed_{seed}", folder / "a.yaml") for seed in (0, 1, 2)]


def note(run: Run, place: str) -> None:
    """Take no note of a start."""


def test_slurm_is_asked_for_one_array(cluster: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"partition": "fast", "minutes": 90, "gpus": 2, "cpus": 6, "parallel": 2}
    launcher = ClusterLauncher(tmp_path / "jobs", "stages", ("lightning",), **options)
    jobs = launcher.submit(runs_in(tmp_path), note)
    (script,) = cluster.iterdir()
    for line in (
        "--job-name=stages",
        "--partition=fast",
        "--time=90",
        "--gpus-per-node=2",
        "--ntasks-per-node=2",
        "--cpus-per-task=6",
        "--array=0-2%2",
        "--signal=USR2@90",
    ):
        assert f"#SBATCH {line}\n" in script.read_text()
    assert not any(job.done() for job in jobs)
    assert [(job.run.folder / "slurm_job.txt").read_text() for job in jobs] == ["77_0", "77_1", "77_2"]


def test_submitted_jobs_are_known_even_if_their_numbers_cannot_be_kept(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = ClusterLauncher(tmp_path / "jobs", "x", ("lightning",))
    monkeypatch.setattr(slurm, "JOB_ID", "no/such/folder")
    runs = runs_in(tmp_path)
    with pytest.raises(FileNotFoundError):
        launcher.submit(runs, note)
    assert [job.run for job in launcher.jobs] == runs


def test_jobs_of_a_killed_study_are_found_again_and_can_be_cancelled(cluster: Path, tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    ClusterLauncher(tmp_path / "jobs", "x", ("lightning",)).submit(runs[:2], note)
    launcher = ClusterLauncher(tmp_path / "jobs", "x", ("lightning",))
    places: dict[int, str] = {}
    jobs = launcher.submit(runs, lambda run, place: places.update({run.seed: place}))
    assert sorted(path.name for path in cluster.iterdir()) == ["script_77", "script_78"]
    assert places == {0: "slurm job 77_0, submitted before", 1: "slurm job 77_1, submitted before", 2: "slurm job 78"}
    assert [job.run.seed for job in jobs] == [0, 1, 2]
    launcher.stop()
    assert (cluster / "cancelled").read_text().split() == ["77_0", "77_1", "78"]
    assert not list(tmp_path.rglob("slurm_job.txt"))


def test_a_requeued_task_goes_on_from_its_checkpoint(fake: Fake, tmp_path: Path) -> None:
    fake.faults(a=["unfinished"])
    run = runs_in(tmp_path)[0]
    run.prepare()
    task = FitTask(run, fake.program)
    task()
    again = pickle.loads(pickle.dumps(task.checkpoint())).function
    again()
    assert "--ckpt_path" not in fake.calls[0]["arguments"]
    assert "--ckpt_path" in fake.calls[1]["arguments"]
    assert run.is_finished()


def test_a_task_fails_with_fit_and_outlives_the_signal_that_is_for_submitit(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.faults(a=["fail at once", "time is nearly up"])
    run = runs_in(tmp_path)[0]
    run.prepare()
    with pytest.raises(RuntimeError, match="a, seed 0 ended with status 1: the data are nowhere"):
        FitTask(run, fake.program)()
    assert (run.folder / "fit.log").is_file()
    (run.folder / "fit.log").unlink()
    # Only the first process of a task writes the log.
    monkeypatch.setenv("SLURM_PROCID", "1")
    FitTask(run, fake.program)()
    assert run.is_finished()
    assert not (run.folder / "fit.log").exists()
    assert (run.folder / "fit.process_1.log").is_file()


def test_without_submitit_or_slurm_the_remedy_is_said(
    ablate_by_jobs: Ablate, fake: Fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    for options in ([], ["--dry-run"]):
        assert ablate_by_jobs(*options) == 1
        assert "--launcher slurm is not possible here: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert ablate_by_jobs() == 1
    assert "needs submitit, which is not installed: pip install '.[slurm]'" in capsys.readouterr().err
    assert not fake.calls
    assert not Path("runs").exists()


def test_a_dry_run_on_a_cluster_leaves_nothing(ablate_by_jobs: Ablate, fake: Fake, cluster: Path) -> None:
    assert ablate_by_jobs("--dry-run") == 0
    assert not Path("runs").exists()
