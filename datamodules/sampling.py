"""Which images a process sees, in which order, and from which seed each is augmented.

Both samplers split the data over processes themselves, so the trainer must not (``use_distributed_sampler: false``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, SequentialSampler

from mobilemamba.errors import UserError


class Draw(NamedTuple):
    """One image to load, and the seed of its augmentation."""

    image: int
    seed: int


class TrainingSampler(DistributedSampler[Draw]):
    """A new order every epoch, that depends on seed and epoch alone; a share of it for this process.

    With repeats, each image is drawn that often in a row, so that copies land in different processes (repeated
    augmentation, Hoffer et al., 2020), and only a part of all images makes up an epoch of the same length.

    It is a DistributedSampler so that a trainer, whatever its settings, recognises that the data are split already.

    Args:
        length: Images in the data set.
        seed: Seed of orders and augmentations.
        rank: Index of this process, of world_size.
        world_size: Number of processes.
        repeats: Draws of each image; 1 is ordinary shuffling.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world_size: int = 1, repeats: int = 1) -> None:
        Sampler.__init__(self)  # DistributedSampler's own would want the data set
        self.length, self.seed, self.rank, self.num_replicas, self.repeats = length, seed, rank, world_size, repeats
        self.epoch = 0  # the trainer moves it on by set_epoch

    def __len__(self) -> int:
        """Draws of this process in an epoch; the same in every process."""
        return self.length // self.num_replicas

    def __iter__(self) -> Iterator[Draw]:
        """Draw one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        images = order[: math.ceil(self.length / self.repeats)].repeat_interleave(self.repeats)
        seeds = torch.randint(2**62, (len(images),), generator=generator)
        mine = slice(self.rank, len(self) * self.num_replicas, self.num_replicas)
        for image, seed in zip(images[mine].tolist(), seeds[mine].tolist(), strict=True):
            yield Draw(image, seed)


class RepeatingSampler(TrainingSampler, SequentialSampler):  # type: ignore[misc]  # which yields plain indices
    """The draws of the first epoch in every epoch, to overfit a few batches of all classes.

    It is a SequentialSampler so that a trainer with ``overfit_batches`` recognises that nothing is shuffled anew: it
    would replace any other by one that goes through the files in order, class by class, and knows no seeds.
    """

    def set_epoch(self, epoch: int) -> None:
        """Stay in the first epoch."""


class EvaluationBatchSampler(BatchSampler):
    """Every image exactly once over all processes, in as many batches in each.

    No image is repeated to fill up, so metrics equal those of one process; equal numbers of batches keep collective
    operations of the processes in step.

    Args:
        sampler: Indices of the images of all processes.
        batch_size: Most images in a batch.
        drop_last: BatchSampler's third argument, by which the trainer makes a copy to predict; always false.
        rank: Index of this process.
        world_size: Number of processes.

    Raises:
        UserError: When there are fewer images than batches to fill, or the images are split over processes already.
    """

    def __init__(
        self,
        sampler: Sequence[int] | Sampler[int],
        batch_size: int,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if isinstance(sampler, DistributedSampler):
            raise UserError(
                "The datamodule splits the images over processes, and the trainer would split them again: set "
                "trainer.use_distributed_sampler to false."
            )
        if drop_last:
            raise UserError("drop_last must be False: every image is evaluated.")
        super().__init__(sampler, batch_size, drop_last)
        images = list(sampler)
        self.batches = math.ceil(math.ceil(len(images) / world_size) / batch_size)
        if len(images) // world_size < self.batches:
            raise UserError(
                f"{len(images)} images cannot be evaluated by {world_size} processes in equal numbers of batches of "
                f"data.batch_size = {batch_size}: use a larger batch size or fewer devices."
            )
        self.indices = images[rank::world_size]

    def __len__(self) -> int:
        """Batches of this process; the same in every process."""
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        """Go through all batches; their sizes differ by at most one image."""
        bounds = [len(self.indices) * batch // self.batches for batch in range(self.batches + 1)]
        for start, stop in itertools.pairwise(bounds):
            yield self.indices[start:stop]
