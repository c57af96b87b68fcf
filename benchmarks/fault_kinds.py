"""The faults that happen to runs: each says where it happened, how the run ended, and what was not mended after it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faulty_runs import LAST, different_parts, fit, happening, killed_after, start, steps_begun, write_config
from datamodules.digits import DigitsDataModule

STEPS = 12
"""Optimiser steps of each run: two epochs of six, with a checkpoint after each epoch."""


class Scene:
    """A folder in which a run meets a fault and goes on by the same command.

    Args:
        folder: The folder, empty.
        draw: Chooses places.
        whole: Last checkpoint of a run without faults.
        trainer: Options of the trainer.
    """

    def __init__(self, folder: Path, draw: random.Random, whole: Path, **trainer: Any) -> None:
        self.folder, self.draw, self.whole = folder, draw, whole
        self.command = ["--config", str(write_config(folder, **trainer)), "--run.resume=auto"]

    @property
    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.folder / LAST

    def meet(self, *options: str, file_limit: int | None = None, **arguments: Any) -> tuple[int, str]:
        """Run the command while something happens."""
        return fit(self.folder, *self.command, happening(**arguments), *options, file_limit=file_limit)

    def end(self, *options: str) -> str:
        """Run the same command to its end; return what is not as it is in a run without faults."""
        status, output = self.meet(*options)
        if status != 0:
            return f"going on ended with {status}: {output.strip().splitlines()[-1]}"
        different = different_parts(self.whole, self.checkpoint)
        return f"{len(different)} values differ, such as {different[0]}" if different else ""


Fault = Callable[[Scene], tuple[str, int, str]]
"""Gives the place, the exit status and the problem."""


def signalled(name: str, status: int, **arguments: Any) -> Fault:
    """Return the fault of a signal before a random step."""

    def happen(scene: Scene) -> tuple[str, int, str]:
        step = 6 if arguments.get("validating") else scene.draw.randrange(STEPS)
        ended, output = scene.meet(step=step, what=name, **arguments)
        wrong = "" if ended == status else f"ended with {ended}, not {status}: {output[-200:]}"
        return f"step {step}", ended, wrong or scene.end()

    return happen


def killed(times: int, *options: str) -> Fault:
    """Return the fault of a run that is killed at random moments, and started again each time."""

    def happen(scene: Scene) -> tuple[str, int, str]:
        for _ in range(times):
            process = start(scene.folder, *scene.command, happening(), *options)
            killed_after(process, scene.folder, scene.draw.randint(1, 6), scene.draw.uniform(0, 0.5))
        return f"{times} moments" if times > 1 else f"after {steps_begun(scene.folder)} steps", -9, scene.end(*options)

    return happen


def damaged(change: Callable[[bytes, random.Random], bytes]) -> Fault:
    """Return the fault of a newest checkpoint that is no longer what was written."""

    def happen(scene: Scene) -> tuple[str, int, str]:
        step = scene.draw.randrange(6, STEPS)
        status, _ = scene.meet(step=step, what="SIGTERM")
        scene.checkpoint.write_bytes(change(scene.checkpoint.read_bytes(), scene.draw))
        return f"step {step}", status, scene.end()

    return happen


def flip_a_bit(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one other bit."""
    place = draw.randrange(8 * len(content))
    changed = bytearray(content)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def cut_off(content: bytes, draw: random.Random) -> bytes:
    """Return the beginning of the content."""
    return content[: draw.randrange(len(content))]


def failing(expected: str, *options: str, **arguments: Any) -> Fault:
    """Return a fault that ends a run with status 1 and a message, after which the same command goes on."""

    def happen(scene: Scene) -> tuple[str, int, str]:
        step = scene.draw.randrange(1, STEPS - 3)
        status, output = scene.meet(*options, step=step, **arguments)
        said = re.search(expected, " ".join(output.split()))
        wrong = "" if status == 1 and said else f"ended with {status} and {output.strip().splitlines()[-1]!r}"
        return f"step {step}", status, wrong or scene.end()

    return happen


def full_disk(scene: Scene) -> tuple[str, int, str]:
    """Meet a limit on the size of files that a checkpoint exceeds."""
    step = scene.draw.randrange(6, STEPS)
    scene.meet(step=step, what="SIGTERM")
    size = scene.checkpoint.stat().st_size
    limit = scene.draw.randrange(size // 10, size)
    status, output = scene.meet(file_limit=limit)
    wrong = "" if status == 1 and "File too large" in output else f"ended with {status}: {output[-200:]}"
    return f"{limit} of {size} bytes", status, wrong or scene.end()


def killed_export(scene: Scene) -> tuple[str, int, str]:
    """Kill a run while it exports."""
    options = ["--enable.export=true", "--export.which=[last]"]
    process = start(scene.folder, *scene.command, happening(), *options)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Exporting"):
            break
    seconds = scene.draw.uniform(0, 5)
    killed_after(process, scene.folder, 0, seconds)
    problem = scene.end(*options)
    file = scene.checkpoint.parents[1] / "export" / "last.onnx"
    left = [path.name for path in file.parent.glob(".*.unfinished")] if file.parent.is_dir() else []
    whole = "" if file.is_file() and not left else f"no whole file, or leftovers: {left}"
    return f"{seconds:.1f} s after it began", process.returncode, problem or whole


def two_runs(scene: Scene) -> tuple[str, int, str]:
    """Start a second run in the folder of a running one, which stands still meanwhile."""
    first = start(scene.folder, *scene.command, happening())
    step = scene.draw.randint(1, 5)
    while steps_begun(scene.folder) < step and first.poll() is None:
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGSTOP)
    status, output = scene.meet("--run.version=version_0")
    os.killpg(first.pid, signal.SIGCONT)
    first.communicate()
    wrong = (
        "" if status == 1 and "is in use by process" in output else f"the second ended with {status}: {output[-200:]}"
    )
    different = different_parts(scene.whole, scene.checkpoint)
    return f"step {step}", status, wrong or ("the first run's end differs" if different else "")


def lost_weights(scene: Scene) -> tuple[str, int, str]:
    """Set a weight to NaN: the run must fail, and export nothing."""
    step = scene.draw.randrange(1, 6)
    status, output = scene.meet("--enable.export=true", step=step, what="nan")
    files = list(scene.folder.rglob("*.onnx"))
    wrong = "" if status == 1 and not files else f"ended with {status}, exported {files}: {output[-200:]}"
    return f"step {step}", status, wrong


def lost_class(scene: Scene) -> tuple[str, int, str]:
    """Lose the folder of a class in training, and bring it back."""
    folder, options = _photographs(scene)
    step = scene.draw.randrange(1, 4)
    status, output = scene.meet(*options, step=step, what="lose", folder=str(folder))
    wrong = "" if status == 1 and "is gone" in output else f"ended with {status}: {output[-200:]}"
    Path(f"{folder} lost").rename(folder)
    return f"step {step}", status, wrong or _goes_on(scene, options)


def stalled_files(scene: Scene) -> tuple[str, int, str]:
    """Let the files of a class hang when they are opened, as on a disk of a network that is gone."""
    folder, options = _photographs(scene)
    step = scene.draw.randrange(1, 4)
    timeout = "--data.loader_timeout=5"
    status, output = scene.meet(*options, timeout, step=step, what="stall", folder=str(folder))
    wrong = "" if status == 1 and "within data.loader_timeout" in output else f"ended with {status}: {output[-200:]}"
    shutil.rmtree(folder)
    Path(f"{folder} lost").rename(folder)
    return f"step {step}", status, wrong or _goes_on(scene, options)


def _photographs(scene: Scene) -> tuple[Path, list[str]]:
    """Write digits as photographs; return the folder of a class, and the options to train on all."""
    data = DigitsDataModule(digits=(0, 1, 2), train_per_class=40)
    data.setup("fit")
    root = scene.folder / "photographs"
    for split in ("train", "val"):
        images = data.datasets[split].images
        for index in range(len(images)):
            image, label = images[index]
            path = root / split / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)  # type: ignore[union-attr]
    options = ["--data=ImageNetDataModule", f"--data.root={root}", "--data.num_classes=3", "--data.image_size=32"]
    return root / "train" / "1", [*options, "--data.batch_size=8", "--data.num_workers=2"]


def _goes_on(scene: Scene, options: list[str]) -> str:
    status, output = scene.meet(*options)
    return "" if status == 0 else f"going on ended with {status}: {output[-200:]}"


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
    "loader processes killed": failing("A loader process was killed", what="die"),
    "files hang when they are opened": stalled_files,
    "disk full": full_disk,
    "killed during export": killed_export,
    "two runs in one folder": two_runs,
    "weights become NaN": lost_weights,
    "folder of a class lost": lost_class,
}
"""Every fault by its name."""
