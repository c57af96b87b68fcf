"""The loaders of all data modules: the images of a process depend on a seed, not on the number of loader processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.loader_processes import ignore_signals
from datamodules.resuming import ResumedData
from datamodules.sampling import EvaluationBatchSampler, RepeatingSampler, TrainingSampler
from mobilemamba.errors import UserError

SPLITS_OF_STAGE = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


class ResumedLoader(DataLoader[Any]):
    """A loader whose sampler begins at the trainer's position, so that it needs no state of its own.

    The trainer warns of a resume inside an epoch unless the loader has these two methods.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the trainer knows how many batches were used."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""


class LoaderDataModule(ResumedData):
    """Loads training images in a new order every epoch, and each image to evaluate once over all processes.

    Attributes:
        num_workers: Loader processes per training process; 0 loads in the training process.
        seed: Seed of orders and augmentations.
        loader_timeout: Seconds to wait for a batch before the run ends with an error; 0 waits for ever.
    """

    num_workers: int
    loader_timeout: float = 600.0
    seed: int

    def training_loader(
        self,
        dataset: Dataset[Any],
        length: int,
        repeats: int = 1,
        balance: float = 0.0,
        targets: np.ndarray | None = None,
        together: bool = False,
        views: int | None = None,
        sampler: Callable[..., TrainingSampler] = TrainingSampler,
        **options: Any,
    ) -> DataLoader[Any]:
        """Load augmented batches in a new order every epoch; the last partial batch is dropped.

        With the trainer's ``overfit_batches`` every epoch is the first one, order and augmentation included.

        Args:
            dataset: Its indices are :class:`datamodules.sampling.Draw`, or View where ``views`` is given.
            length: Number of images.
            repeats: Draws of each image.
            balance: From 0, each image once, to 1, each class equally often.
            targets: Class indices (length,), which a balance above 0 needs.
            together: Whether all draws of an image are in one process.
            views: Number of stored views to draw in turn.
            sampler: Makes the sampler; all arguments above are for it.
            options: Options of the loader.
        """
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        make = RepeatingSampler if overfits else sampler
        epoch, batches = self.take_position()
        done = batches * self.batch_size
        place = self.rank_and_world_size()
        draws = make(length, self.seed, *place, repeats, balance, targets, epoch, done, together, views)
        options |= {"batch_size": self.batch_size, "sampler": draws, "drop_last": True}
        return self.loader(dataset, ResumedLoader, **options)

    def check_enough(self, stage: str, images: Mapping[str, int]) -> None:
        """Check that batches can be made for every process, before any long work.

        Args:
            stage: "fit", "validate", "test" or "predict".
            images: Number of images of each split.

        Raises:
            UserError: When there are too few.
        """
        splits = SPLITS_OF_STAGE[stage]
        self.evaluation_batches(images[splits[-1]])
        share = images[splits[0]] // self.rank_and_world_size()[1]
        if stage != "fit" or share >= self.batch_size:
            return
        given = self.global_batch_size
        option = f"data.batch_size = {self.batch_size}" if given is None else f"data.global_batch_size = {given}"
        raise UserError(
            f"{option} makes batches of {self.batch_size} images, more than the {share} training images of a process: "
            "use a smaller number or fewer devices."
        )

    def evaluation_batches(self, length: int) -> EvaluationBatchSampler:
        """Return the batches of this process for a number of images.

        Raises:
            UserError: When there are too few images for all processes.
        """
        rank, world_size = self.rank_and_world_size()
        return EvaluationBatchSampler(range(length), self.batch_size, rank=rank, world_size=world_size)

    def loader(
        self, dataset: Dataset[Any], kind: type[DataLoader[Any]] = DataLoader, **options: Any
    ) -> DataLoader[Any]:
        """Return a loader with this module's number of processes."""
        return kind(
            dataset,
            num_workers=self.num_workers,
            worker_init_fn=ignore_signals,
            timeout=self.loader_timeout if self.num_workers else 0,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
