"""``mobilemamba store-teacher``: runs a teacher once on views of each training image, and stores its answers.

Each process takes the next view that no other process has locked, so the same command may also be started on several
machines that share the folder.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from datamodules.stored_teacher import StoredTeacher
from lightning_modules.teacher_storing import Job, TeacherStoring
from lightning_modules.warnings_filter import hide_known_warnings
from mobilemamba.errors import UserError


def store_teacher(
    config: list[str],
    views: PositiveInt = 50,
    top_k: PositiveInt = 10,
    output: Path | None = None,
    set: list[str] | None = None,
    devices: PositiveInt = 1,
) -> None:
    """Run a config's teacher once on views of each training image, and store the likeliest classes.

    Stored views are kept: the command continues where it was stopped, and more views can be added later.

    Args:
        config: Configs of lightning fit with data, augmentation, teacher and precision, by path or name; later ones
            override earlier ones.
        views: Number of augmentations of each image; a run's epochs use them in turn.
        top_k: Number of likeliest classes to store of each answer; all if there are fewer.
        output: Folder of the store. Null: runs/stored_teachers/NAME, with the run's name.
        set: Single options of lightning fit, such as data.root=/path/to/imagenet; they override the configs.
        devices: Number of processes, each on its own device; on a CPU they share its cores.

    Raises:
        UserError: When options, data, teacher and store do not fit together, or images cannot be read.
        OSError: When a file cannot be read or written.
        ConnectionError: When the teacher's weights cannot be fetched.
    """
    hide_known_warnings()
    job = Job(_arguments(config, set or []), views, top_k, output)
    storing = TeacherStoring(job, 0)
    store = storing.store
    store.want(views)
    missing, images = store.missing(), int(store.manifest["images"])
    print(f"{len(missing)} of {store.views} views of {images:,} images are to be stored in {store.folder}.", flush=True)
    with Meter(len(missing), images) as meter:
        if devices == 1:
            storing.run(meter.advance)
        elif missing:
            _run_processes(job, min(devices, len(missing)), meter)
    store = StoredTeacher(storing.store.folder)
    store.check_whole()
    size = sum(store.path(view).stat().st_size for view in range(store.views))
    unread = f" {len(store.not_stored)} image(s) could not be read: training skips them." if store.not_stored else ""
    print(
        f"{store.folder} has {store.views} views of {images:,} images, the {store.manifest['top_k']} likeliest of "
        f"{store.classes} classes, in {size / 1e6:,.1f} MB.{unread}\n"
        f"Train from it with --model.teacher.stored={store.folder}"
    )


class Meter:
    """Shows progress and remaining time: a bar on a terminal, otherwise a line for each view.

    Args:
        views: Views to be stored.
        images: Images of each view.
    """

    def __init__(self, views: int, images: int) -> None:
        self._images, self._views, self._done = images, views, 0
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("views"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=views * images)
        self._began = time.monotonic()

    def __enter__(self) -> Meter:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the bar."""
        self._bar.stop()

    def advance(self, images: int) -> None:
        """Count finished images."""
        self.set(self._done + images)

    def set(self, done: int) -> None:
        """Show the number of images that all processes have finished."""
        before, self._done = self._done, done
        self._bar.update(self._task, completed=done)
        if not self._console.is_terminal and done // self._images > before // self._images:
            left = (time.monotonic() - self._began) / done * (self._views * self._images - done)
            line = f"{done // self._images} of {self._views} views, {timedelta(seconds=round(left))} left"
            print(line, file=sys.stderr, flush=True)


def _arguments(configs: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return arguments of ``lightning fit``."""
    arguments: list[str] = []
    for config in configs:
        arguments += ["--config", config]
    for text in options:
        if "=" not in text:
            raise UserError(f"--set {text} must be NAME=VALUE, such as --set data.root=/path/to/imagenet.")
        arguments.append(f"--{text}")
    return arguments


def _run_processes(job: Job, count: int, meter: Meter) -> None:
    """Run a job in several processes.

    Raises:
        UserError: When one of them failed with an error that the user can fix.
    """
    context = multiprocessing.get_context("spawn")
    done, errors = context.Value("q", 0), context.SimpleQueue()
    # Not daemons, which may not have loader processes; they still end with this process.
    group = spawn(_work, (job, done, errors), nprocs=count, join=False)
    try:
        while not group.join(timeout=0.5):
            meter.set(done.value)
    except (ProcessRaisedException, ProcessExitedException) as error:
        if errors.empty():
            raise
        raise UserError(errors.get()) from error
    meter.set(done.value)


def _work(device: int, job: Job, done: Any, errors: Any) -> None:
    hide_known_warnings()

    def advance(images: int) -> None:
        with done.get_lock():
            done.value += images

    try:
        TeacherStoring(job, device).run(advance)
    except (UserError, OSError) as error:
        errors.put(str(error))
        raise
