"""Devices for parallel runs on one machine: a worker has one run at a time and sees only its own devices."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mobilemamba.errors import UserError

ACCELERATOR = {name: ("--trainer.accelerator", name) for name in ("cpu", "gpu")}
"""Options for Lightning, which would silently use the CPU if it finds no GPU."""


@dataclass(frozen=True)
class Worker:
    """The devices of one run at a time.

    Args:
        name: Name for messages.
        environment: Additional environment variables of its processes.
        arguments: Options of ``lightning fit`` for its runs.
    """

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def make_workers(devices: str, threads: int | None = None) -> tuple[Worker, ...]:
    """Return the workers of ``--devices``.

    Args:
        devices: "auto" is one worker with all devices; "cpu:N" are N workers that share the cores; "0,1" are two
            workers with one GPU each, "0+1,2+3" two with two. Numbers are those of PyTorch: they count the GPUs that
            CUDA_VISIBLE_DEVICES of this process leaves.
        threads: CPU threads of each worker. None: for CPU workers an equal share of the cores, else PyTorch's choice.

    Raises:
        UserError: When devices are impossible, or this machine has no such GPU.
    """
    given = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    if devices == "auto":
        return (Worker("all devices", given),)
    if match := re.fullmatch(r"cpu(?::([1-9]\d*))?", devices):
        count = int(match[1] or 1)
        shared = {"OMP_NUM_THREADS": str(max(1, available_cores() // count)), "CUDA_VISIBLE_DEVICES": ""} | given
        return tuple(Worker(f"CPU worker {index}", shared, ACCELERATOR["cpu"]) for index in range(count))
    if re.fullmatch(r"\d+(\+\d+)*(,\d+(\+\d+)*)*", devices):
        groups = [group.split("+") for group in devices.split(",")]
        used = [device for group in groups for device in group]
        if len(set(used)) == len(used):
            return tuple(_gpu_worker([int(number) for number in group], given) for group in groups)
    raise UserError(
        f"--devices {devices} must be auto, cpu:N for N runs at a time on the CPU, or numbers of GPUs, "
        "each once: 0,1 for two runs at a time, 0+1,2+3 for two with two GPUs each."
    )


def _gpu_worker(numbers: Sequence[int], given: Mapping[str, str]) -> Worker:
    from torch.cuda import device_count  # slow to import

    count = device_count()
    for number in numbers:
        if number >= count:
            remedy = f"use numbers below {count}" if count else "use cpu:N"
            raise UserError(
                f"--devices names GPU {number}, but PyTorch sees {count} here (torch.cuda.device_count()): {remedy}."
            )
    # Numbers count the GPUs in CUDA_VISIBLE_DEVICES, if it is set.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",")
    names = [visible[number] if visible != [""] else str(number) for number in numbers]
    environment = {**given, "CUDA_VISIBLE_DEVICES": ",".join(names)}
    return Worker(f"GPU {'+'.join(map(str, numbers))}", environment, ACCELERATOR["gpu"])


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
