"""A classifier whose predictions are known, and the networks of a run to compute what should have been written."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.classification import ImageClassification
from lightning_modules.undisturbed import copied_network


class Mistaken(ImageClassification):
    """Takes class 3 for class 1 and recognises all others."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        super().validation_step(batch, batch_idx)
        targets = batch[1]
        return F.one_hot(torch.where(targets == 3, 1, targets), 4).float()


class Last(Callback):
    """Copies of the networks at the end."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        self.ema = copied_network(pl_module)
        averaged = pl_module.ema_student
        pl_module.hold("ema_student", None)
        self.raw = copied_network(pl_module)
        pl_module.hold("ema_student", averaged)
