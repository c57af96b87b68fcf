"""Runs as jobs of a SLURM cluster, by submitit (github.com/facebookincubator/submitit), an optional package.

All new runs are one array job. submitit requeues a job that reaches its time limit or is preempted, and it resumes from
its last checkpoint. With several GPUs a job has one task per GPU, each a process of ``lightning fit``, as Lightning
expects under SLURM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.studies.runs import LOG, Run, log_line
from mobilemamba.errors import UserError

JOB_ID = "slurm_job.txt"

MAX_REQUEUES = 100
"""Largest number of times that a job is requeued; a long run needs many."""


@dataclass(frozen=True)
class FitTask:
    """The function of a job, which submitit pickles.

    Args:
        run: The run.
        program: The ``lightning`` command.
    """

    run: Run
    program: tuple[str, ...]

    def __call__(self) -> None:
        """Start or resume fit.

        Raises:
            RuntimeError: When fit fails.
        """
        process = int(os.environ.get("SLURM_PROCID", "0"))
        log = self.run.folder / (LOG if process == 0 else f"fit.process_{process}.log")
        command = [*self.program, *self.run.arguments]
        with log.open("ab") as output:
            output.write(log_line(command))
            output.flush()  # before the process writes there
            status = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                preexec_fn=_leave_requeueing_to_submitit,
            ).returncode
        if status:
            raise RuntimeError(f"{self.run.label} ended with status {status}: {self.run.reason()}")

    def checkpoint(self) -> Any:
        """Let submitit requeue the same task, before a time limit or a preemption."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _leave_requeueing_to_submitit() -> None:
    """Ignore, in the process of fit, the signal that SLURM sends to all processes of a job before its time limit."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@dataclass(frozen=True)
class ClusterJob:
    """A submitted job.

    Args:
        run: The run.
        job: submitit's.
    """

    run: Run
    job: Any

    def done(self) -> bool:
        """Return whether it has ended."""
        return self.job.done()

    def result(self) -> int:
        """Return 0, or 1 if it has failed."""
        (self.run.folder / JOB_ID).unlink(missing_ok=True)
        return 0 if self.job.exception() is None else 1

    def cancel(self) -> None:
        """Cancel the job."""
        self.job.cancel()
        (self.run.folder / JOB_ID).unlink(missing_ok=True)


class ClusterLauncher:
    """Submits runs as array jobs, and finds the jobs of a killed study again.

    Args:
        folder: Folder of submitit's scripts and logs, which all machines must see.
        name: Name of the jobs.
        program: The ``lightning`` command.
        partition: SLURM partition; None for the cluster's default.
        minutes: Time limit of a job, after which it is requeued and resumes.
        gpus: GPUs per run.
        cpus: CPU cores per GPU, or per run without GPUs.
        parallel: Largest number of jobs at a time.
        cluster: "slurm"; submitit's "local" runs the same jobs on this machine.

    Raises:
        UserError: When submitit is not installed, or there is no SLURM.
    """

    capacity = 10**6  # the cluster queues them

    def __init__(
        self,
        folder: Path,
        name: str,
        program: Sequence[str],
        *,
        partition: str | None = None,
        minutes: int = 24 * 60,
        gpus: int = 1,
        cpus: int = 8,
        parallel: int = 256,
        cluster: Literal["slurm", "local"] = "slurm",
    ) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "--launcher slurm needs submitit, which is not installed: pip install '.[slurm]' in the checkout."
            ) from error
        self._submitit = submitit
        self.poll_seconds = 10.0 if cluster == "slurm" else 0.5
        self.folder = folder.absolute()
        self.program = tuple(program)
        self.cluster = cluster
        self.jobs: list[ClusterJob] = []
        try:
            self._executor = submitit.AutoExecutor(
                folder=self.folder / "%j", cluster=cluster, slurm_max_num_timeout=MAX_REQUEUES
            )
        except RuntimeError as error:
            raise UserError(f"--launcher slurm is not possible here: {error}") from error
        self._executor.update_parameters(
            name=name,
            timeout_min=minutes,
            cpus_per_task=cpus,
            gpus_per_node=gpus,
            tasks_per_node=max(1, gpus),
            slurm_array_parallelism=parallel,
            **({} if partition is None else {"slurm_partition": partition}),
        )

    def submit(self, runs: Sequence[Run], started: Callable[[Run, str], None]) -> list[ClusterJob]:
        """Submit runs as one array, except those whose jobs still exist."""
        found = {run: job for run in runs if (job := self._find(run)) is not None}
        self.jobs += found.values()
        new = [run for run in runs if run not in found]
        for run in new:
            run.prepare()
        with self._executor.batch() if new else contextlib.nullcontext():
            submitted = [ClusterJob(run, self._executor.submit(FitTask(run, self.program))) for run in new]
        self.jobs += submitted
        for job in submitted:
            (job.run.folder / JOB_ID).write_text(job.job.job_id)
        jobs = found | {job.run: job for job in submitted}
        for run, job in jobs.items():
            before = ", submitted before" if run in found else ""
            started(run, f"{self.cluster} job {job.job.job_id}{before}")
        return [jobs[run] for run in runs]

    def stop(self) -> None:
        """Cancel all jobs; the cluster ends them."""
        for job in self.jobs:
            if not job.done():
                job.cancel()

    def _find(self, run: Run) -> ClusterJob | None:
        """Return the job of an earlier command, if it is waiting or running."""
        path = run.folder / JOB_ID
        if self.cluster != "slurm" or not path.is_file():
            return None
        job = self._submitit.SlurmJob(folder=self.folder / "%j", job_id=path.read_text().strip(), tasks=[0])
        return None if job.done(force_check=True) else ClusterJob(run, job)
