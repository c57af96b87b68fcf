"""An order for data of which a process can hold only a part: chunks in a random order, their images in small blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.sampling import TrainingSampler


class BlockSampler(TrainingSampler):
    """Chunks in a new order every epoch, a part of them for each process, the images of a few chunks shuffled together.

    Each process, and so each machine, reads chunks that no other reads in the epoch, but for those at the ends of its
    part. The order depends on seed and epoch alone.

    Args:
        members: Indices of each chunk's images.
        together: Chunks whose images are shuffled together.
        arguments: Of :class:`datamodules.sampling.TrainingSampler`, without balance.
        options: The same.
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
        # Within a process's part, blocks in their order, and the images of a block in a random one.
        keys = (blocks + torch.rand(self.length, dtype=torch.float64, generator=generator))[:used]
        places = keys.view(self.num_replicas, share).argsort(1)
        parts = torch.cat(chunks)[:used].view(self.num_replicas, share).gather(1, places)
        drawn = parts[:, : math.ceil(share / self.repeats)].repeat_interleave(self.repeats, dim=1)[:, :share]
        return drawn.T.flatten()
