"""A training order for data that a process cannot hold as a whole: random chunks, shuffled in small blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.sampling import TrainingSampler


class BlockSampler(TrainingSampler):
    """Chunks in a new order every epoch, some of them for each process; images of a few chunks are shuffled together.

    In an epoch no two processes read the same chunk, except at the ends of their shares. The order depends only on seed
    and epoch.

    Args:
        members: Indices of each chunk's images.
        together: Number of chunks whose images are shuffled together.
        arguments: Arguments of :class:`datamodules.sampling.TrainingSampler`, without balance.
        options: Its keyword arguments.
    """

    def __init__(self, members: list[np.ndarray], together: int, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.members, self.chunks_together = members, together

    def _images(self, generator: torch.Generator) -> Tensor:
        order = torch.randperm(len(self.members), generator=generator)
        chunks = [torch.from_numpy(self.members[number]) for number in order.tolist()]
        sizes = torch.tensor([len(chunk) for chunk in chunks])
        blocks = (torch.arange(len(chunks)) // self.chunks_together).repeat_interleave(sizes)
        share, used = len(self), len(self) * self.num_replicas
        # In a process's share blocks keep their order, and the images of a block are shuffled.
        keys = (blocks + torch.rand(self.length, dtype=torch.float64, generator=generator))[:used]
        places = keys.view(self.num_replicas, share).argsort(1)
        parts = torch.cat(chunks)[:used].view(self.num_replicas, share).gather(1, places)
        drawn = parts[:, : math.ceil(share / self.repeats)].repeat_interleave(self.repeats, dim=1)[:, :share]
        return drawn.T.flatten()
