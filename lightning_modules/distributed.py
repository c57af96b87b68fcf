"""Communication between processes: shared buffers, gathered values, and a clean end."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import distributed, nn

T = TypeVar("T")


def share_buffers(network: nn.Module) -> None:
    """Copy the buffers of the first process to all others, in place; nothing happens in a run of one process.

    Without SyncBatchNorm each process has BatchNorm statistics of its own images. Checkpoints hold those of the first
    process, so all processes must evaluate with them. DistributedDataParallel does this for the network it wraps.

    Args:
        network: A network whose buffers are in the same order on every process.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return
    for buffer in network.buffers():
        distributed.broadcast(buffer, src=0)


def leave_process_group() -> None:
    """Close the connections to other processes, if there are any, before the interpreter ends.

    Otherwise threads of gloo sometimes abort a process after a successful run, which gives a wrong exit code. Lightning
    does this only for NCCL.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def gathered(value: T) -> list[T]:
    """Return the values of all processes in their order; the value is anything that can be pickled."""
    if not distributed.is_available() or not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
