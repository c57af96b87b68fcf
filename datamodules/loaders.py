"""Loaders of any data: which images a process sees comes from a seed, not from the trainer or the loader processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from datamodules.sampling import EvaluationBatchSampler, RepeatingSampler, TrainingSampler


class LoaderDataModule(LightningDataModule):
    """Loaders of training images in a new order every epoch, and of each image to evaluate once over all processes.

    Attributes:
        batch_size: Images per batch and process.
        num_workers: Loader processes per training process; 0 loads in the training process.
        seed: Seed of orders and augmentations.
    """

    batch_size: int
    num_workers: int
    seed: int

    def training_loader(
        self,
        dataset: Dataset[Any],
        length: int,
        repeats: int = 1,
        balance: float = 0.0,
        targets: np.ndarray | None = None,
        **options: Any,
    ) -> DataLoader[Any]:
        """Load augmented batches in a new order every epoch; the last partial batch is dropped.

        With the trainer's ``overfit_batches`` every epoch is the first one, order and augmentation included.

        Args:
            dataset: Takes a :class:`datamodules.sampling.Draw`.
            length: Images in it.
            repeats: See :class:`datamodules.sampling.TrainingSampler`, as for the next two.
            balance: See there.
            targets: See there.
            options: Of the loader.
        """
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        kind = RepeatingSampler if overfits else TrainingSampler
        sampler = kind(length, self.seed, *self.rank_and_world_size(), repeats, balance, targets)
        return self.loader(dataset, batch_size=self.batch_size, sampler=sampler, drop_last=True, **options)

    def evaluation_batches(self, length: int) -> EvaluationBatchSampler:
        """Return the batches of this process of so many images.

        Raises:
            UserError: When there are too few images for all processes.
        """
        rank, world_size = self.rank_and_world_size()
        return EvaluationBatchSampler(range(length), self.batch_size, rank=rank, world_size=world_size)

    def loader(self, dataset: Dataset[Any], **options: Any) -> DataLoader[Any]:
        """Return a loader with this module's number of processes."""
        return DataLoader(
            dataset,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )

    def rank_and_world_size(self) -> tuple[int, int]:
        """Return the index of this process, and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
