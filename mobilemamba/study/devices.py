"""Where runs go side by side on one machine: a worker takes one run at a time and sees its own devices only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mobilemamba.study.errors import StudyError


@dataclass(frozen=True)
class Worker:
    """A place for one run.

    Args:
        name: What to call it.
        environment: Variables that its processes get besides those of this one.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


def make_workers(devices: str, threads: int | None = None) -> tuple[Worker, ...]:
    """Return the workers of ``--devices``.

    Args:
        devices: "auto" is one worker with all devices; "cpu:N" are N workers that share the cores; "0,1" are two
            workers with one GPU each, "0+1,2+3" two with two.
        threads: CPU threads of each worker. None: for CPU workers an equal share of the cores, else PyTorch's choice.

    Raises:
        StudyError: When devices or threads are impossible.
    """
    if threads is not None and threads < 1:
        raise StudyError(f"--threads {threads} is not possible: use 1 or more.")
    given = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    if devices == "auto":
        return (Worker("all devices", given),)
    if match := re.fullmatch(r"cpu(?::([1-9]\d*))?", devices):
        count = int(match[1] or 1)
        shared = {"OMP_NUM_THREADS": str(max(1, available_cores() // count)), "CUDA_VISIBLE_DEVICES": ""} | given
        return tuple(Worker(f"CPU worker {index}", shared) for index in range(count))
    if re.fullmatch(r"\d+(\+\d+)*(,\d+(\+\d+)*)*", devices):
        groups = [group.split("+") for group in devices.split(",")]
        used = [device for group in groups for device in group]
        if len(set(used)) == len(used):
            return tuple(
                Worker(f"GPU {'+'.join(group)}", given | {"CUDA_VISIBLE_DEVICES": ",".join(group)}) for group in groups
            )
    raise StudyError(
        f"--devices {devices} is not possible: use auto, cpu:N for N runs at a time on the CPU, or numbers of GPUs, "
        "each once: 0,1 for two runs at a time, 0+1,2+3 for two with two GPUs each."
    )


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
