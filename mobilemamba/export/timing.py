"""Times of several calls measured in turn, so that a busy machine slows them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """Times of one call, in milliseconds.

    Args:
        minimum: The least disturbed call; compare these on a shared machine.
        median: The usual call.
        calls: How many were timed.
    """

    minimum: float
    median: float
    calls: int


def interleaved(
    calls: Mapping[Name, Callable[[], object]], rounds: int, repeats: int, device: torch.device, warmup: int = 1
) -> dict[Name, Timing]:
    """Return the times of calls, by name; arguments as of :func:`interleaved_seconds`."""
    seconds = interleaved_seconds(calls, rounds, repeats, device, warmup)
    return {
        name: Timing(min(values) * 1e3, statistics.median(values) * 1e3, len(values))
        for name, values in seconds.items()
    }


def interleaved_seconds(
    calls: Mapping[Name, Callable[[], object]], rounds: int, repeats: int, device: torch.device, warmup: int = 1
) -> dict[Name, list[float]]:
    """Return the time of every single call in seconds, in the order they were made.

    Each round runs every call a few times, one after the other.

    Args:
        calls: What to run, by name.
        rounds: Timed rounds.
        repeats: Runs of each call in a round.
        device: Waited for, where it works asynchronously.
        warmup: Rounds before the timed ones.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    # On the error stream, so that the table alone can be piped.
    progress = track(range(warmup + rounds), "Measuring", console=Console(stderr=True), transient=True)
    for number in progress:
        for name, call in calls.items():
            for _ in range(repeats):
                synchronise(device)
                start = time.perf_counter()
                call()
                synchronise(device)
                if number >= warmup:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronise(device: torch.device) -> None:
    """Wait for an asynchronous device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
