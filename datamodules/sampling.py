"""Which images a process sees, in which order, and from which seed each is augmented.

Both samplers split the data over processes themselves, so the trainer must not (``use_distributed_sampler: false``).
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
    """One image to load, and the number of its view: which of its augmentations, alike in every run."""

    image: int
    number: int


class TrainingSampler(DistributedSampler[Draw | View]):
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
        balance: From 0, each image once, to 1, each class equally often: a class of n images has a share of the epoch
            in proportion to n ** (1 - balance). Its images take turns: none is drawn again before all others of its
            class are, and of those of a large class an epoch has a part. The epoch's length stays.
        targets: Class indices (length,), which a balance above 0 needs.
        epoch: The epoch to begin with.
        start: Draws of this process in that epoch to leave out, since a run that goes on has had them.
        together: Whether the draws of an image follow each other in one process, which decodes it once, instead of
            landing in different ones.
        views: Draw so many views of an image in turn, one by one, over epochs and repeats, instead of a new
            augmentation each time. The order is the same.
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
        Sampler.__init__(self)  # DistributedSampler's own would want the data set
        self.length, self.seed, self.rank, self.num_replicas, self.repeats = length, seed, rank, world_size, repeats
        self.balance, self.targets = balance, targets
        self.epoch, self.start, self.together, self.views = epoch, start, together, views

    def __len__(self) -> int:
        """Draws of this process in a whole epoch; the same in every process."""
        return self.length // self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Draw all of another epoch from now on; the trainer calls this before each."""
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
        """Return the number of the order that this epoch has."""
        return self.epoch

    def _most_draws(self) -> int:
        """Return how often an image is drawn in an epoch at most, which is the same in all epochs."""
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
        """Return each image as often as it is drawn; copies side by side, or in turns of the same process."""
        if not self.together:
            return images.repeat_interleave(self.repeats)
        turns = math.ceil(len(images) / self.num_replicas)
        places = torch.arange(turns * self.num_replicas) % len(images)
        rows = images[places].view(turns, self.num_replicas)
        return rows.repeat_interleave(self.repeats, dim=0).flatten()


def earlier_draws(images: Tensor) -> Tensor:
    """Return how often the image of each draw was drawn before, (draws,), of the images (draws,) in their order."""
    ordered, places = images.sort(stable=True)
    counts = ordered.unique_consecutive(return_counts=True)[1]
    firsts = (counts.cumsum(0) - counts).repeat_interleave(counts)  # where the draws of each image begin
    return torch.empty_like(images).scatter_(0, places, torch.arange(len(images)) - firsts)


def balanced_order(order: Tensor, targets: Tensor, balance: float, generator: torch.Generator) -> Tensor:
    """Return as many draws in which classes have other shares; see :class:`TrainingSampler`.

    Args:
        order: All images (length,) in a random order.
        targets: Their class indices (length,), by image.
        balance: From 0, shares as they are, to 1, equal shares.
        generator: What the draws depend on.
    """
    weights = torch.bincount(targets).double()
    weights[weights > 0] **= 1 - balance
    # Where the shares of the classes end, rounded: together they are the whole epoch.
    ends = (weights.cumsum(0) / weights.sum() * len(order)).round().long()
    draws = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    of_class = [order[targets[order] == index] for index in range(len(draws))]
    chosen = [
        images.repeat(-(-count // len(images)))[:count] for images, count in zip(of_class, draws, strict=True) if count
    ]
    return torch.cat(chosen)[torch.randperm(len(order), generator=generator)]


class RepeatingSampler(TrainingSampler, SequentialSampler):  # type: ignore[misc]  # which yields plain indices
    """The draws of the first epoch in every epoch, to overfit a few batches of all classes.

    It is a SequentialSampler so that a trainer with ``overfit_batches`` recognises that nothing is shuffled anew: it
    would replace any other by one that goes through the files in order, class by class, and knows no seeds.
    """

    def _order(self) -> int:
        return 0


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
