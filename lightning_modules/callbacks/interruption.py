"""Ctrl-C in the middle of fit: the weights are kept, and what can be done with them is said."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_modules.callbacks.run_summary import stop_progress_bar
from lightning_modules.inspection import is_trial, run_folder


class SaveOnInterrupt(Callback):
    """Write ``interrupted.ckpt`` when fit is stopped by Ctrl-C or SIGTERM, and print how to go on.

    Hooks: ``on_exception``. In a run of several processes nothing is written, since those may be waiting for each other
    at different points; ``last.ckpt`` of the last epoch is kept in any case.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where there is something to save, and say so."""
        if not self.should_act(trainer, exception):
            return
        if trainer.world_size == 1:
            path = checkpoint_folder(trainer) / "interrupted.ckpt"
            trainer.save_checkpoint(path)
        else:
            path = checkpoint_folder(trainer) / "last.ckpt"
        if trainer.is_global_zero:
            stop_progress_bar(trainer)
            print(next_steps(path), flush=True)

    def should_act(self, trainer: Trainer, exception: BaseException) -> bool:
        """Return whether this is an interruption of training that has begun."""
        is_interruption = isinstance(exception, (KeyboardInterrupt, SIGTERMException))
        has_begun = trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0
        return is_interruption and has_begun and not is_trial(trainer)


def checkpoint_folder(trainer: Trainer) -> Path:
    """Return the folder of the run's checkpoints."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath:
            return Path(callback.dirpath)
    return run_folder(trainer) / "checkpoints"


def next_steps(path: Path) -> str:
    """Return what can be done with a checkpoint of an interrupted run."""
    if not path.is_file():
        return f"Training was interrupted before {path} was written."
    export = shlex.join(["mobilemamba", "export", "--checkpoint", str(path), "--format", "onnx"])
    lines = [f"Training was interrupted; its state is kept in {path}", "To export it:", f"  {export}"]
    config = path.parent.parent / "config.yaml"
    if config.is_file():
        resume = shlex.join(["lightning", "fit", "--config", str(config), "--ckpt_path", str(path)])
        lines += ["To go on, as a run of its own:", f"  {resume}"]
    return "\n".join(lines)
