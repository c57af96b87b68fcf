"""One network on all processes, its statistics included."""

from __future__ import annotations

from torch import distributed, nn


def share_buffers(network: nn.Module) -> None:
    """Give every process the buffers of the first one, in place; a run of one process is left alone.

    Without SyncBatchNorm each process keeps BatchNorm statistics of its own images. Checkpoints hold those of the first
    process, so all processes must evaluate with them. DistributedDataParallel does this for the network it wraps.

    Args:
        network: A network whose buffers are in the same order on every process.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return
    for buffer in network.buffers():
        distributed.broadcast(buffer, src=0)
