"""Samplers: the images of a process, their order, and the seed of each augmentation.

They split the data over processes themselves, so the trainer must not (``use_distributed_sampler: false``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, Sampler, SequentialSampler

from mobilemamba.errors import UserError


class Draw(NamedTuple):
    """One image to load, and the seed of its augmentation."""

    image: int
    seed: int


class View(NamedTuple):
    """One image to load, and the number of its view: an augmentation that is the same in every run."""

    image: int
    number: int


class TrainingSampler(DistributedSampler[Draw | View]):
    """A new order every epoch that depends only on seed and epoch, and the share of this process.

    With repeats, each image is drawn that often in a row, so that the draws are in different processes (repeated
    augmentation, Hoffer et al., 2020). The length of an epoch is the same, so it has only a part of the images.

    It is a DistributedSampler so that the trainer sees that the data are split already.

    Args:
        length: Images in the data set.
        seed: Seed of orders and augmentations.
        rank: Index of this process, of world_size.
        world_size: Number of processes.
        repeats: Draws of each image; 1 is ordinary shuffling.
        balance: From 0, each image once, to 1, each class equally often: the share of a class of n images is
            proportional to n ** (1 - balance). No image is drawn again before all others of its class, and an epoch
            has only a part of the images of a large class. The length of an epoch is the same.
        targets: Class indices (length,), which a balance above 0 needs.
        epoch: The epoch to begin with.
        start: Number of this process's draws in that epoch that a resumed run has had already.
        together: Whether the draws of an image follow each other in one process, which decodes it once, instead of
            being in different processes.
        views: Number of views of an image to draw in turn, over epochs and repeats, instead of a new augmentation each
            time. The order is the same.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
        balance: float = 0.0,
        targets: np.ndarray | None = None,
        epoch: int = 0,
        start: int = 0,
        together: bool = False,
        views: int | None = None,
    ) -> None:
        Sampler.__init__(self)  # DistributedSampler's own needs the data set
        self.length, self.seed, self.rank, self.num_replicas, self.repeats = length, seed, rank, world_size, repeats
        self.balance, self.targets = balance, targets
        self.epoch, self.start, self.together, self.views = epoch, start, together, views

    def __len__(self) -> int:
        """Draws of this process in a whole epoch; the same in every process."""
        return self.length // self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch; the trainer calls this before each."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __iter__(self) -> Iterator[Draw | View]:
        """Draw one epoch, from start on."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self._order())
        images = self._images(generator)
        first = self.rank + self.start * self.num_replicas
        mine = slice(first, len(self) * self.num_replicas, self.num_replicas)
        if self.views is None:
            seeds = torch.randint(2**62, (len(images),), generator=generator)
            yield from map(Draw, images[mine].tolist(), seeds[mine].tolist())
            return
        numbers = (self._order() * self._most_draws() + earlier_draws(images)) % self.views
        yield from map(View, images[mine].tolist(), numbers[mine].tolist())

    def _order(self) -> int:
        """Return the number that decides the order of this epoch."""
        return self.epoch

    def _most_draws(self) -> int:
        """Return the largest number of draws of an image in an epoch, the same in all epochs."""
        if not self.balance or self.targets is None:
            return self.repeats
        targets = torch.from_numpy(self.targets).long()
        order = balanced_order(torch.arange(self.length), targets, self.balance, torch.Generator())
        return self.repeats * int(order.bincount().max())

    def _images(self, generator: torch.Generator) -> Tensor:
        """Return the images of an epoch, for all processes, which take turns."""
        order = torch.randperm(self.length, generator=generator)
        if self.balance and self.targets is not None:
            order = balanced_order(order, torch.from_numpy(self.targets).long(), self.balance, generator)
        return self._repeated(order[: math.ceil(self.length / self.repeats)])

    def _repeated(self, images: Tensor) -> Tensor:
        """Repeat each image; its draws follow each other, in different processes or, with together, in the same."""
        if not self.together:
            return images.repeat_interleave(self.repeats)
        turns = math.ceil(len(images) / self.num_replicas)
        places = torch.arange(turns * self.num_replicas) % len(images)
        rows = images[places].view(turns, self.num_replicas)
        return rows.repeat_interleave(self.repeats, dim=0).flatten()


def earlier_draws(images: Tensor) -> Tensor:
    """Return for each draw (draws,) how often its image was drawn before."""
    ordered, places = images.sort(stable=True)
    counts = ordered.unique_consecutive(return_counts=True)[1]
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)  # where the draws of each image begin
    return torch.empty_like(images).scatter_(0, places, torch.arange(len(images)) - firsts)


def balanced_order(order: Tensor, targets: Tensor, balance: float, generator: torch.Generator) -> Tensor:
    """Return as many draws, but with balanced classes; see :class:`TrainingSampler`.

    Args:
        order: All images (length,) in a random order.
        targets: Class indices (length,) by image.
        balance: From 0, shares as they are, to 1, equal shares.
        generator: Random generator of the draws.
    """
    weights = torch.bincount(targets).double()
    weights[weights > 0] **= 1 - balance
    # The ends of the classes' shares are rounded, so that the shares add up to the whole epoch.
    ends = (weights.cumsum(0) / weights.sum() * len(order)).round().long()
    draws = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    of_class = [order[targets[order] == index] for index in range(len(draws))]
    chosen = [
        images.repeat(-(-count // len(images)))[:count] for images, count in zip(of_class, draws, strict=True) if count
    ]
    return torch.cat(chosen)[torch.randperm(len(order), generator=generator)]


class RepeatingSampler(TrainingSampler, SequentialSampler):  # type: ignore[misc]  # which yields plain indices
    """The draws of the first epoch in every epoch, to overfit a few batches of all classes.

    It is a SequentialSampler so that a trainer with ``overfit_batches`` keeps it: it would replace any other sampler
    with one that goes through the files class by class and has no seeds.
    """

    def _order(self) -> int:
        return 0


class EvaluationBatchSampler(BatchSampler):
    """Every image exactly once over all processes, with the same number of batches in each.

    No image is repeated, so metrics equal those of one process. Equal numbers of batches keep the processes' collective
    operations in step.

    Args:
        sampler: Indices of the images of all processes.
        batch_size: Largest number of images in a batch.
        drop_last: Must be false; the trainer passes it when it copies the sampler for prediction.
        rank: Index of this process.
        world_size: Number of processes.

    Raises:
        UserError: When there are fewer images than batches, or the images are split over processes already.
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
                "The trainer would split the images over processes again: set trainer.use_distributed_sampler to false."
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
