"""A training step and its memory, in float32 or the device's mixed precision.

On CUDA, memory is the peak of the allocator during forward and backward pass, above what was allocated before. On the
CPU it is what autograd keeps for the backward pass, without parameters and buffers; each storage counts once.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobilemamba.export.timing import synchronise


class TrainingStep:
    """Forward pass in training mode, cross-entropy and backward pass, without optimiser.

    Args:
        network: Copied; the copy is trained.
        images: (B, C, H, W).
        autocast: Whether the forward pass runs under autocast.
    """

    def __init__(self, network: nn.Module, images: Tensor, autocast: bool = False) -> None:
        self.network, self.images, self.autocast = copy.deepcopy(network).train(), images, autocast
        self.targets = torch.zeros(len(images), dtype=torch.int64, device=images.device)

    def __call__(self) -> None:
        """Run the step."""
        with torch.autocast(self.images.device.type, enabled=self.autocast):
            loss = F.cross_entropy(self.network(self.images), self.targets)
        loss.backward()

    def megabytes_per_image(self) -> float:
        """Return the memory as in the module's description, in 1e6 bytes."""
        self()  # allocates gradients and chooses kernels
        used = self._peak_bytes() if self.images.device.type == "cuda" else self._saved_bytes()
        return used / len(self.images) / 1e6

    def _saved_bytes(self) -> int:
        own = {tensor.untyped_storage().data_ptr() for tensor in [*self.network.parameters(), *self.network.buffers()]}
        kept: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            # The graph keeps every packed tensor until the backward pass, so no address is used twice.
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self()
        return sum(kept.values())

    def _peak_bytes(self) -> int:
        device = self.images.device
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        self()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
