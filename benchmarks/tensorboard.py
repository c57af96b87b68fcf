"""What the callbacks for TensorBoard cost a run: the same training with and without them, in turn, in one process.

Two figures, since neither is enough alone. The difference of both times holds everything, but also whatever else the
machine does in minutes of training: compare minima of several rounds. The time inside the callbacks' hooks is hardly
disturbed, but leaves out what they cause elsewhere, such as the writing of files in the background. Seconds of the
processor are those of all threads of this process.

Export and summary are left out.

Example: python -m benchmarks tensorboard experiments/quickstart.yaml --rounds 3
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import Callback

from benchmarks.publish import write_results
from lightning_modules.command_line import TENSORBOARD_CALLBACKS, CommandLine
from lightning_modules.warnings_filter import hide_known_warnings
from mobilemamba.export.timing import synchronise
from mobilemamba.tables import table


@dataclass
class Seconds:
    """Time that has passed, and time of the processor."""

    wall: float = 0.0
    processor: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        """Return the sum."""
        return Seconds(self.wall + other.wall, self.processor + other.processor)

    def __sub__(self, other: Seconds) -> Seconds:
        """Return the difference."""
        return Seconds(self.wall - other.wall, self.processor - other.processor)


def now(device: torch.device) -> Seconds:
    """Return the time when a device has done what it was given."""
    synchronise(device)
    return Seconds(time.perf_counter(), time.process_time())


@dataclass
class Fit:
    """One training run.

    Args:
        whole: From the beginning to the end of fit.
        inside: In the hooks of each measured callback, by its section.
        steps: Optimiser steps.
    """

    whole: Seconds = field(default_factory=Seconds)
    inside: dict[str, Seconds] = field(default_factory=dict)
    steps: int = 0


class TimedCommandLine(CommandLine):
    """``lightning fit`` with a stopwatch."""

    def __init__(self, args: list[str]) -> None:
        self.measured = Fit()
        super().__init__(args)

    def before_fit(self) -> None:
        """Start the stopwatches."""
        self.device = self.trainer.strategy.root_device
        sections = {callback: name for name, callback in TENSORBOARD_CALLBACKS.items()}
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if type(callback) in sections:
                measure_hooks(callback, self.measured.inside, sections[type(callback)], self.device)
        self.started = now(self.device)

    def after_fit(self) -> None:
        """Stop."""
        self.measured.whole = now(self.device) - self.started
        self.measured.steps = self.trainer.global_step


def measure_hooks(callback: Callback, sums: dict[str, Seconds], section: str, device: torch.device) -> None:
    """Add the time of every hook that a callback has, and of the work it gives to a device, to the sum of its section.

    Args:
        callback: Its hooks are wrapped.
        sums: By section.
        section: Of the callback.
        device: Waited for, where it works asynchronously.
    """
    sums.setdefault(section, Seconds())

    def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def call(*args: Any, **kwargs: Any) -> Any:
            started = now(device)
            result = hook(*args, **kwargs)
            sums[section] += now(device) - started
            return result

        return call

    for name in dir(Callback):
        if (name.startswith("on_") or name == "setup") and getattr(type(callback), name) is not getattr(Callback, name):
            setattr(callback, name, timed(getattr(callback, name)))


def run(arguments: list[str], enabled: bool, folder: str) -> tuple[Fit, torch.device]:
    """Train once with arguments of ``lightning fit``, the measured callbacks on or off."""
    switches = [f"--enable.{name}={str(enabled).lower()}" for name in TENSORBOARD_CALLBACKS]
    always = ["--enable.export=false", "--enable.summary=false", "--trainer.enable_progress_bar=false"]
    command = TimedCommandLine(["fit", *arguments, *switches, *always, f"--run.folder={folder}"])
    return command.measured, command.device


def report(off: list[Fit], on: list[Fit]) -> tuple[str, dict[str, Any]]:
    """Return a table and the same numbers for JSON, of runs without and with the callbacks."""
    best_off, best_on = (min(fits, key=lambda fit: fit.whole.processor) for fits in (off, on))
    inside, difference = sum(best_on.inside.values(), Seconds()), best_on.whole - best_off.whole
    rows = [
        ("difference", difference, best_off.whole),
        ("inside the callbacks", inside, best_on.whole),
        *((f"... {name}", part, best_on.whole) for name, part in best_on.inside.items()),
    ]
    cells = [
        (name, f"{seconds.wall:.2f}", "", f"{seconds.processor:.2f}", "")
        for name, seconds in (("without", best_off.whole), ("with", best_on.whole))
    ]
    for name, part, whole in rows:
        shares = f"{part.wall / whole.wall:.2%}", f"{part.processor / whole.processor:.2%}"
        cells.append((name, f"{part.wall:.2f}", shares[0], f"{part.processor:.2f}", shares[1]))
    text = table(("", "seconds", "share", "seconds of the processor", "share"), cells)
    content = {
        "share_inside": inside.wall / best_on.whole.wall,
        "share_inside_processor": inside.processor / best_on.whole.processor,
        "share_of_difference": difference.wall / best_off.whole.wall,
        "share_of_difference_processor": difference.processor / best_off.whole.processor,
        "without": [asdict(fit.whole) for fit in off],
        "with": [asdict(fit) for fit in on],
    }
    return f"{best_on.steps} optimiser steps; the run of {len(on)} that took the processor least\n\n{text}", content


def tensorboard(
    config: list[str],
    rounds: PositiveInt = 3,
    options: list[str] | None = None,
    folder: str | None = None,
    output: Path | None = None,
) -> None:
    """Measure what the callbacks for TensorBoard cost a run, by training with and without them in turn.

    Args:
        config: Configs of `lightning fit`.
        rounds: Runs of each kind.
        options: Further options of `lightning fit`, as NAME=VALUE.
        folder: Where the runs are kept. Null: nowhere.
        output: JSON file for the figures.
    """
    hide_known_warnings()
    sys.argv = sys.argv[:1]  # Lightning warns of arguments given in both ways
    arguments = [word for name in config for word in ("--config", name)] + [f"--{text}" for text in options or []]
    fits: dict[bool, list[Fit]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(rounds):
            for enabled in (False, True) if number % 2 == 0 else (True, False):
                fit, device = run(arguments, enabled, folder or temporary)
                fits[enabled].append(fit)
                print(f"round {number + 1}, {'with' if enabled else 'without'}: {fit.whole.wall:.1f} s", flush=True)
    text, content = report(fits[False], fits[True])
    print(f"\n{text}")
    if output is not None:
        write_results(output, device, arguments=arguments, **content)
