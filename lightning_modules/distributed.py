"""One network on all processes, its statistics included."""

from __future__ import annotations

from torch import distributed, nn


def share_buffers(network: nn.Module) -> None:
    """Give every process the buffers of the first one, in place; nothing happens in a run of one process.

    Without SyncBatchNorm each process keeps BatchNorm statistics of its own images, and averages them on its own. Those
    of the first process are what checkpoints hold, so those must be evaluated everywhere, or figures would belong to no
    network at all. DistributedDataParallel does this for what it wraps, before its first forward of a validation.

    Args:
        network: A network whose parameters and buffers are in the same order on every process.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return
    for buffer in network.buffers():
        distributed.broadcast(buffer, src=0)
