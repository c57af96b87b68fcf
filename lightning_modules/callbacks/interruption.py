"""Handles signals during fit: saves the state, and prints how to continue."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_modules.callbacks.checkpoints import LastCheckpoint, can_stop_after
from lightning_modules.callbacks.run_summary import stop_progress_bar
from lightning_modules.inspection import find_callback, is_trial, run_folder

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
"""Signals that are handled; Windows has only the first two."""


class SaveOnInterrupt(Checkpoint):
    """Write ``last.ckpt`` after a signal, and print how to continue if the signal ends the run.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP end the run with status 128 plus the signal's number: 130, 143 and 129. SIGUSR1
    saves and continues; under SLURM it saves, requeues the job and ends the run, unless Lightning's SLURMEnvironment
    is given with auto_requeue off. A second Ctrl-C ends the run at once.

    Hooks: ``on_sanity_check_start`` and ``on_train_start`` install the signal handlers; ``on_train_batch_end``,
    ``on_validation_batch_end``, ``on_validation_end`` and ``on_train_epoch_end`` react to signals, after all other
    callbacks; ``on_train_end`` and ``on_exception`` restore the old handlers. After each optimiser step and each batch
    of a validation all processes agree on what to do, so that a signal to one of them stops all at the same place. An
    interrupted validation is not repeated: a resumed run continues with the next training batch.
    """

    def __init__(self) -> None:
        self._received: set[int] = set()
        self._handlers: dict[int, Any] = {}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers."""
        self._install()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the signal handlers; an earlier SIGTERM counts."""
        self._install()
        if trainer.received_sigterm:
            self._received.add(signal.SIGTERM)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """React after an optimiser step."""
        if can_stop_after(trainer, batch_idx):
            self._act(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """React inside a validation, which may take longer than a scheduler waits."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._act(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """React after a validation inside an epoch."""
        if not trainer.sanity_checking and not trainer.is_last_batch:
            self._act(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """React at the end of an epoch."""
        self._act(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the old signal handlers."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the old signal handlers."""
        self._restore()

    def _act(self, trainer: Trainer) -> None:
        """React to a signal to any process.

        Raises:
            SystemExit: When the signal ends the run.
        """
        number = max(self._received, default=0)
        if trainer.world_size > 1:  # one integer, little compared with the gradients
            own = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(own, reduce_op="max"))
        if not number or is_trial(trainer):
            return
        self._received.discard(number)
        path = save_last(trainer)
        requeued = requeues(trainer)
        if number == getattr(signal, "SIGUSR1", None) and not requeued:
            rank_zero_info(f"SIGUSR1: saved the state after step {trainer.global_step} in {path}; training continues.")
            return
        if trainer.is_global_zero:
            stop_progress_bar(trainer)
            if number == getattr(signal, "SIGUSR1", None):
                requeue_job()
            print(next_steps(path), flush=True)
        # Lightning kills the first process, whose status is the run's, when a process that it started fails.
        started_by_first = isinstance(environment_of(trainer), LightningEnvironment) and trainer.global_rank > 0
        raise SystemExit(0 if started_by_first else 128 + number)

    def _install(self) -> None:
        if self._handlers or threading.current_thread() is not threading.main_thread():
            return
        self._received.clear()
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if number in self._received:
                raise KeyboardInterrupt
            # Not print: Python's own streams may be in use.
            os.write(2, b"\ninterrupted: saving the state after this step; Ctrl-C again ends without saving\n")
        self._received.add(number)


def save_last(trainer: Trainer) -> Path:
    """Write ``last.ckpt`` of this step, unless it exists; to be called on all processes."""
    last = find_callback(trainer, LastCheckpoint)
    path = checkpoint_folder(trainer) / "last.ckpt"
    if last is None:
        trainer.save_checkpoint(path)
    else:
        last.save(trainer)
    return path


def environment_of(trainer: Trainer) -> Any:
    """Return Lightning's description of the cluster; None for a single process outside of one."""
    return trainer._accelerator_connector.cluster_environment


def requeues(trainer: Trainer) -> bool:
    """Return whether SIGUSR1 means that SLURM will end the job, which is then requeued."""
    environment = environment_of(trainer)
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue


def requeue_job() -> None:
    """Ask SLURM to start this job again."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = os.environ["SLURM_JOB_ID"] if array is None else f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"The job {job} was not requeued: {error}")


def checkpoint_folder(trainer: Trainer) -> Path:
    """Return the folder of the run's checkpoints."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return run_folder(trainer) / "checkpoints"


def next_steps(path: Path) -> str:
    """Return the commands to use after an interrupted run with this checkpoint."""
    export = shlex.join(["mobilemamba", "export", "--checkpoint", str(path), "--format", "onnx"])
    lines = [f"Training was interrupted; its state is saved in {path}", "To export it:", f"  {export}"]
    config = path.parent.parent / "config.yaml"
    if config.is_file():
        resume = shlex.join(["lightning", "fit", "--config", str(config), "--ckpt_path", str(path)])
        lines += ["To continue:", f"  {resume}"]
    return "\n".join(lines)
