"""A classifier whose predictions are known, and the networks of a run to compute what should have been written."""

from __future__ import annotations

import copy

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.classification import ImageClassification


class Mistaken(ImageClassification):
    """Takes class 3 for class 1 and recognises all others."""

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        super().validation_step(batch, batch_idx)
        targets = batch[1]
        return F.one_hot(torch.where(targets == 3, 1, targets), 4).float()


class Last(Callback):
    """Copies of the networks at the end; of the raw one twice where nothing is averaged."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, ImageClassification)
        self.raw = copy.deepcopy(pl_module.student).eval().requires_grad_(False)
        averaged = pl_module.ema_student
        self.ema = self.raw if averaged is None else copy.deepcopy(averaged).eval().requires_grad_(False)
