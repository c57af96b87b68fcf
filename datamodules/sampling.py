"""Which images a process sees, in which order, and from which seed each is augmented.

Both samplers split the data over processes themselves, so the trainer must not (``use_distributed_sampler: false``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler


class Draw(NamedTuple):
    """One image to load, and the seed of its augmentation."""

    image: int
    seed: int


class TrainingSampler(Sampler[Draw]):
    """A new order every epoch, that depends on seed and epoch alone; a share of it for this process.

    With repeats, each image is drawn that often in a row, so that copies land in different processes (repeated
    augmentation, Hoffer et al., 2020), and only a part of all images makes up an epoch of the same length.

    Args:
        length: Images in the data set.
        seed: Seed of orders and augmentations.
        rank: Index of this process.
        world_size: Number of processes.
        repeats: Draws of each image; 1 is ordinary shuffling.
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world_size: int = 1, repeats: int = 1) -> None:
        self.length, self.seed, self.rank, self.world_size, self.repeats = length, seed, rank, world_size, repeats
        self.epoch = 0

    def __len__(self) -> int:
        """Draws of this process in an epoch; the same in every process."""
        return self.length // self.world_size

    def __iter__(self) -> Iterator[Draw]:
        """Draw one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator).repeat_interleave(self.repeats)
        seeds = torch.randint(2**62, (len(order),), generator=generator)
        mine = slice(self.rank, len(self) * self.world_size, self.world_size)
        for index, seed in zip(order[mine].tolist(), seeds[mine].tolist(), strict=True):
            yield Draw(index, seed)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; the trainer calls this."""
        self.epoch = epoch


class EvaluationBatchSampler(Sampler[list[int]]):
    """Every image exactly once over all processes, in as many batches in each.

    No image is repeated to fill up, so metrics equal those of one process; equal numbers of batches keep collective
    operations of the processes in step.

    Args:
        length: Images in the data set.
        batch_size: Most images in a batch.
        rank: Index of this process.
        world_size: Number of processes.

    Raises:
        ValueError: When there are fewer images than batches to fill.
    """

    def __init__(self, length: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.batches = math.ceil(math.ceil(length / world_size) / batch_size)
        if length // world_size < self.batches:
            raise ValueError(
                f"{length} images cannot be evaluated by {world_size} processes in equal numbers of batches of "
                f"data.batch_size = {batch_size}: use a larger batch size or fewer devices."
            )
        self.indices = range(rank, length, world_size)

    def __len__(self) -> int:
        """Batches of this process; the same in every process."""
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        """Go through all batches; their sizes differ by at most one image."""
        bounds = [len(self.indices) * batch // self.batches for batch in range(self.batches + 1)]
        for start, stop in itertools.pairwise(bounds):
            yield list(self.indices[start:stop])
