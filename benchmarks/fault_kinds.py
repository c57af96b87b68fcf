"""The faults that happen to runs: each returns where it happened, how the run ended, and what is wrong after it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faulty_runs import (
    LAST,
    different_parts,
    fault_option,
    fit,
    kill_after,
    start,
    steps_begun,
    write_config,
)
from datamodules.digits import DigitsDataModule

STEPS = 12
"""Optimiser steps of each run: two epochs of six, with a checkpoint after each epoch."""


class FaultyRun:
    """A folder in which a run meets a fault and is resumed by the same command.

    Args:
        folder: The folder, empty.
        draw: Chooses when and where the fault happens.
        reference: Last checkpoint of a run without faults.
        trainer: Options of the trainer.
    """

    def __init__(self, folder: Path, draw: random.Random, reference: Path, **trainer: Any) -> None:
        self.folder, self.draw, self.reference = folder, draw, reference
        self.command = ["--config", str(write_config(folder, **trainer)), "--run.resume=auto"]

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / LAST

    def run(self, *options: str, file_limit: int | None = None, **fault: Any) -> tuple[int, str]:
        """Run the command with a fault; return its exit status and output."""
        return fit(self.folder, *self.command, fault_option(**fault), *options, file_limit=file_limit)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start the command without a fault of its own."""
        return start(self.folder, *self.command, fault_option(), *options)

    def resume(self, *options: str, compare: bool = True) -> str:
        """Run the same command to its end; return what is wrong: its status, or a difference from the reference."""
        status, output = self.run(*options)
        if status != 0:
            return f"when resumed, it {unexpected(False, status, output)}"
        different = different_parts(self.reference, self.checkpoint) if compare else []
        return f"{len(different)} values differ, such as {different[0]}" if different else ""


Fault = Callable[[FaultyRun], tuple[str, int, str]]
"""Returns where it happened, the exit status, and what is wrong: "" for nothing."""


def unexpected(is_expected: bool, status: int, output: str) -> str:
    """Return how a run ended if that is not what was expected, else an empty string."""
    return "" if is_expected else f"ended with {status}: {output.strip()[-200:]}"


def signalled(name: str, expected: int, **arguments: Any) -> Fault:
    """Return the fault of a signal before a random step."""

    def cause(run: FaultyRun) -> tuple[str, int, str]:
        step = 6 if arguments.get("validating") else run.draw.randrange(STEPS)
        status, output = run.run(step=step, kind=name, **arguments)
        return f"step {step}", status, unexpected(status == expected, status, output) or run.resume()

    return cause


def killed(times: int, *options: str) -> Fault:
    """Return the fault of a run that is killed at random moments, and started again each time."""

    def cause(run: FaultyRun) -> tuple[str, int, str]:
        for _ in range(times):
            kill_after(run.start(*options), run.folder, run.draw.randint(1, 6), run.draw.uniform(0, 0.5))
        return f"{times} moments" if times > 1 else f"after {steps_begun(run.folder)} steps", -9, run.resume(*options)

    return cause


def damaged(change: Callable[[bytes, random.Random], bytes]) -> Fault:
    """Return the fault of a newest checkpoint whose content has changed."""

    def cause(run: FaultyRun) -> tuple[str, int, str]:
        step = run.draw.randrange(6, STEPS)
        status, _ = run.run(step=step, kind="SIGTERM")
        run.checkpoint.write_bytes(change(run.checkpoint.read_bytes(), run.draw))
        return f"step {step}", status, run.resume()

    return cause


def flip_a_bit(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one bit changed."""
    place = draw.randrange(8 * len(content))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def cut_off(content: bytes, draw: random.Random) -> bytes:
    """Return the beginning of the content."""
    return content[: draw.randrange(len(content))]


def killed_loaders(run: FaultyRun) -> tuple[str, int, str]:
    """Kill the loader processes."""
    step = run.draw.randrange(1, STEPS - 3)
    status, output = run.run(step=step, kind="die")
    is_expected = status == 1 and "A loader process was killed" in " ".join(output.split())
    return f"step {step}", status, unexpected(is_expected, status, output) or run.resume()


def full_disk(run: FaultyRun) -> tuple[str, int, str]:
    """Limit the size of files to less than a checkpoint needs."""
    run.run(step=run.draw.randrange(6, STEPS), kind="SIGTERM")
    size = run.checkpoint.stat().st_size
    limit = run.draw.randrange(size // 10, size)
    status, output = run.run(file_limit=limit)
    is_expected = status == 1 and "File too large" in output
    return f"{limit} of {size} bytes", status, unexpected(is_expected, status, output) or run.resume()


def killed_export(run: FaultyRun) -> tuple[str, int, str]:
    """Kill a run while it exports."""
    options = ["--enable.export=true", "--export.which=[last]"]
    process = run.start(*options)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Exporting"):
            break
    seconds = run.draw.uniform(0, 5)
    kill_after(process, run.folder, 0, seconds)
    problem = run.resume(*options)
    file = run.checkpoint.parents[1] / "export" / "last.onnx"
    unfinished = [path.name for path in file.parent.glob(".*.unfinished")] if file.parent.is_dir() else []
    if not problem and (unfinished or not file.is_file()):
        problem = f"no exported file, or unfinished ones: {unfinished}"
    return f"{seconds:.1f} s after it began", process.returncode, problem


def two_runs(run: FaultyRun) -> tuple[str, int, str]:
    """Start a second run in the folder of a run that is stopped meanwhile."""
    first = run.start()
    step = run.draw.randint(1, 5)
    while steps_begun(run.folder) < step and first.poll() is None:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGSTOP)
    status, output = run.run("--run.version=version_0")
    os.killpg(first.pid, signal.SIGCONT)
    first.communicate()
    problem = unexpected(status == 1 and "is in use by process" in output, status, output)
    if not problem and different_parts(run.reference, run.checkpoint):
        problem = "the first run's checkpoint differs"
    return f"step {step}", status, problem


def lost_weights(run: FaultyRun) -> tuple[str, int, str]:
    """Set a weight to NaN: the run must fail, and export nothing."""
    step = run.draw.randrange(1, 6)
    status, output = run.run("--enable.export=true", step=step, kind="nan")
    return f"step {step}", status, unexpected(status == 1 and not list(run.folder.rglob("*.onnx")), status, output)


def lost_files(kind: str, message: str, *options: str) -> Fault:
    """Return the fault of a class's files that cannot be read in training, and can be read when it is resumed."""

    def cause(run: FaultyRun) -> tuple[str, int, str]:
        folder, data = _photographs(run)
        step = run.draw.randrange(1, 4)
        status, output = run.run(*data, *options, step=step, kind=kind, folder=str(folder))
        problem = unexpected(status == 1 and message in output, status, output)
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder} lost").rename(folder)
        return f"step {step}", status, problem or run.resume(*data, compare=False)

    return cause


def _photographs(run: FaultyRun) -> tuple[Path, list[str]]:
    """Write digits as image files; return the folder of a class, and the options to train on all."""
    data = DigitsDataModule(digits=(0, 1, 2), train_per_class=40)
    data.setup("fit")
    root = run.folder / "photographs"
    for split in ("train", "val"):
        images = data.datasets[split].images
        for index in range(len(images)):
            image, label = images[index]
            path = root / split / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)  # type: ignore[union-attr]
    options = ["--data=ImageNetDataModule", f"--data.root={root}", "--data.num_classes=3", "--data.image_size=32"]
    return root / "train" / "1", [*options, "--data.batch_size=8", "--data.num_workers=2"]


FAULTS: dict[str, Fault] = {
    "killed": killed(1),
    "killed ten times": killed(10),
    "two processes, killed ten times": killed(10, "--trainer.devices=2", "--data.batch_size=4"),
    "SIGINT (Ctrl-C)": signalled("SIGINT", 130),
    "SIGTERM": signalled("SIGTERM", 143),
    "SIGHUP": signalled("SIGHUP", 129),
    "SIGUSR1: saves and goes on": signalled("SIGUSR1", 0),
    "SIGTERM during validation": signalled("SIGTERM", 143, validating=True),
    "a bit of the newest checkpoint": damaged(flip_a_bit),
    "newest checkpoint cut off": damaged(cut_off),
    "loader processes killed": killed_loaders,
    "files hang when they are opened": lost_files("stall", "within data.loader_timeout", "--data.loader_timeout=5"),
    "disk full": full_disk,
    "killed during export": killed_export,
    "two runs in one folder": two_runs,
    "weights become NaN": lost_weights,
    "folder of a class lost": lost_files("lose", "is gone"),
}
"""Every fault by its name."""
