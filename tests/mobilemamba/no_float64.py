"""A stand-in for devices without float64, such as Apple's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _OnHost(TorchDispatchMode):
    """Whatever makes a float64 tensor fails, unless it is computed from tensors that were moved to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            is_on_host = any(getattr(value, "is_on_host", False) for value in tree_leaves(args))
            if result.dtype == torch.float64 and not is_on_host:
                raise TypeError(f"{func} made a float64 tensor, which this device does not have")
            result.is_on_host = is_on_host  # type: ignore[attr-defined]
        return result


def _moved(tensor: Tensor) -> Tensor:
    moved = tensor.clone()
    moved.is_on_host = True  # type: ignore[attr-defined]
    return moved


@contextmanager
def without_float64() -> Iterator[None]:
    """Take every tensor for one on such a device, until its ``cpu()``."""
    with patch.object(Tensor, "cpu", _moved), _OnHost():
        yield
