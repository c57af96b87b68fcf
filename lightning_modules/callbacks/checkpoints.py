"""Which checkpoints a run keeps: the best by validation accuracy, and the last."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.inspection import task_of


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt``, the checkpoint of the highest validation accuracy.

    Hooks: ``setup`` chooses the metric; the rest is Lightning's.

    Args:
        monitor: Metric to compare, higher is better. Null: the task's, val/top1_ema, or val/top1_raw without EMA.
        dirpath: Folder. Null: "checkpoints" in the run's folder.
        every_n_epochs: Epochs between two looks at the metric.
    """

    def __init__(self, monitor: str | None = None, dirpath: str | None = None, every_n_epochs: int = 1) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="best",
            monitor=monitor,
            mode="max",
            every_n_epochs=every_n_epochs,
            enable_version_counter=False,
        )
        self._monitor_is_chosen = monitor is not None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare averaged weights by the task's metric, or raw ones where there are no others."""
        # Lightning puts this behind other callbacks, so that EMA has been set up.
        if not self._monitor_is_chosen:
            task = task_of(pl_module)
            self.monitor = f"val/{task.headline}_{'raw' if task.ema_student is None else 'ema'}"
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare with the best so far in a run that is resumed in its own folder, and begin anew in another one."""
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
        else:
            folder = state_dict["dirpath"]
            rank_zero_info(f"best.ckpt will be the best from here on; that of the resumed run stays in {folder}.")


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``, the checkpoint to resume from.

    A callback of its own, since Lightning's save_last writes only when the best checkpoint changes too.

    Args:
        dirpath: Folder. Null: "checkpoints" in the run's folder.
        every_n_epochs: Epochs between two writes.
    """

    def __init__(self, dirpath: str | None = None, every_n_epochs: int = 1) -> None:
        super().__init__(dirpath=dirpath, filename="last", every_n_epochs=every_n_epochs, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember nothing: the last checkpoint is replaced whatever came before."""
