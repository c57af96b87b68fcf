"""What several processes share: the statistics of one network, and an orderly end."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import distributed, nn

T = TypeVar("T")


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


def leave_process_group() -> None:
    """End the connections to the other processes, if there are any, before the interpreter ends.

    Threads of gloo that outlive it abort the process now and then, after a run that succeeded: its exit code would be
    untrue. Lightning does this for NCCL alone.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def gathered(value: T) -> list[T]:
    """Return a value of every process, in their order; in a run of one process, that which is given alone.

    Args:
        value: Anything that pickle takes.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
