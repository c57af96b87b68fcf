"""Time that the callbacks for TensorBoard take: the same training with and without them, in turn, in one process.

It is measured in two ways. The difference of both times includes everything, but also noise from whatever else the
machine does: compare minima of several rounds. The time inside the callbacks' hooks has little noise, but leaves out
what they cause elsewhere, such as writing files in the background. CPU time is that of all threads of this process.
Export and summary are off.

Example: python -m benchmarks tensorboard experiments/quickstart.yaml --rounds 3
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from numpy.typing import NDArray

from benchmarks.publish import write_results
from lightning_modules.command_line import TENSORBOARD_CALLBACKS, CommandLine
from lightning_modules.warnings_filter import hide_known_warnings
from mobilemamba.export.timing import synchronise
from mobilemamba.tables import table

Seconds = NDArray[np.float64]
"""Elapsed time and CPU time."""


@dataclass
class Fit:
    """One training run.

    Args:
        whole: Time of the whole fit.
        inside: Time in the hooks of each measured callback, by its section.
        steps: Optimiser steps.
    """

    whole: Seconds
    inside: dict[str, Seconds] = field(default_factory=dict)
    steps: int = 0


class HookTimes(Profiler):
    """Adds up the time of measured callbacks' hooks, including their work on the device.

    Args:
        sections: Config section of each measured callback, by its state key.
        device: The device that the hooks use.
    """

    def __init__(self, sections: Mapping[str, str], device: torch.device) -> None:
        super().__init__()
        self.sections, self.device = {f"[Callback]{key}": section for key, section in sections.items()}, device
        self.inside = {section: np.zeros(2) for section in sections.values()}

    def start(self, action_name: str) -> None:
        """Note when a hook begins."""
        if action_name.rpartition(".")[0] in self.sections:
            self.started = now(self.device)

    def stop(self, action_name: str) -> None:
        """Add the time of a hook that ends."""
        section = self.sections.get(action_name.rpartition(".")[0])
        if section:
            self.inside[section] += now(self.device) - self.started


class TimedCommandLine(CommandLine):
    """``lightning fit`` with a stopwatch."""

    def before_fit(self) -> None:
        """Start the stopwatches."""
        self.device = self.trainer.strategy.root_device
        names = {callback: name for name, callback in TENSORBOARD_CALLBACKS.items()}
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        sections = {one.state_key: names[type(one)] for one in callbacks if type(one) in names}
        self.trainer.profiler = self.hooks = HookTimes(sections, self.device)  # type: ignore[attr-defined]
        self.started = now(self.device)

    def after_fit(self) -> None:
        """Stop."""
        self.measured = Fit(now(self.device) - self.started, self.hooks.inside, self.trainer.global_step)


def now(device: torch.device) -> Seconds:
    """Return the time after waiting for the device's work."""
    synchronise(device)
    return np.array([time.perf_counter(), time.process_time()])


def run(arguments: list[str], enabled: bool, folder: str) -> tuple[Fit, torch.device]:
    """Train once with arguments of ``lightning fit``, the measured callbacks on or off."""
    switches = [f"--enable.{name}={str(enabled).lower()}" for name in TENSORBOARD_CALLBACKS]
    always = ["--enable.export=false", "--enable.summary=false", "--trainer.enable_progress_bar=false"]
    command = TimedCommandLine(["fit", *arguments, *switches, *always, f"--run.folder={folder}"])
    return command.measured, command.device


def report(off: Sequence[Fit], on: Sequence[Fit]) -> str:
    """Return a table of runs without and with the callbacks, of each kind the one with the least CPU time."""
    without, best = (min(fits, key=lambda fit: fit.whole[1]) for fits in (off, on))
    nothing = np.zeros(2)
    rows = [
        ("without", without.whole, None),
        ("with", best.whole, None),
        ("difference", best.whole - without.whole, without.whole),
        ("inside the callbacks", sum(best.inside.values(), nothing), best.whole),
        *((f"... {name}", part, best.whole) for name, part in best.inside.items()),
    ]
    cells = []
    for name, seconds, whole in rows:
        shares = ["", ""] if whole is None else [f"{share:.2%}" for share in seconds / whole]
        cells.append((name, f"{seconds[0]:.2f}", shares[0], f"{seconds[1]:.2f}", shares[1]))
    text = table(("", "seconds", "share", "seconds of CPU time", "share"), cells)
    return f"{best.steps} optimiser steps; of {len(on)} runs the one with the least CPU time\n\n{text}"


def tensorboard(
    config: list[str],
    rounds: PositiveInt = 3,
    options: list[str] | None = None,
    folder: str | None = None,
    output: Path | None = None,
) -> None:
    """Measure the time that the callbacks for TensorBoard take, by training with and without them in turn.

    Args:
        config: Configs of `lightning fit`.
        rounds: Runs of each kind.
        options: Further options of `lightning fit`, as NAME=VALUE.
        folder: Where to keep the runs. Null: they are deleted.
        output: JSON file for the figures.
    """
    hide_known_warnings()
    sys.argv = sys.argv[:1]  # Lightning warns if there are arguments here, too
    arguments = [word for name in config for word in ("--config", name)] + [f"--{text}" for text in options or []]
    fits: dict[bool, list[Fit]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(rounds):
            for enabled in (False, True) if number % 2 == 0 else (True, False):
                fit, device = run(arguments, enabled, folder or temporary)
                fits[enabled].append(fit)
                print(f"round {number + 1}, {'with' if enabled else 'without'}: {fit.whole[0]:.1f} s", flush=True)
    print(f"\n{report(fits[False], fits[True])}")
    if output is not None:
        results = [
            {"with_callbacks": enabled, "steps": fit.steps, "whole": _named(fit.whole)}
            | {"inside": {name: _named(part) for name, part in fit.inside.items()}}
            for enabled, runs in fits.items()
            for fit in runs
        ]
        write_results(output, device, results, arguments=arguments)


def _named(seconds: Seconds) -> dict[str, float]:
    return dict(zip(("wall", "processor"), seconds.tolist(), strict=True))
