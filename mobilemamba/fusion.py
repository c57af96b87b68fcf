"""Turn a trained network into its inference form: no BatchNorm, no scale, no removable skip.

A layer that can be simplified has a method ``fused()`` that returns its simpler equal. It is called after the layer's
children have been simplified, on a copy of the network.
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from mobilemamba.errors import UserError

_Network = TypeVar("_Network", bound=nn.Module)


@runtime_checkable
class Fusible(Protocol):
    """A layer that knows its simpler equal."""

    def fused(self) -> nn.Module:
        """Return the equal layer; it may be this one, changed in place."""


class FusionError(UserError):
    """The network cannot be fused without changing what it computes."""


def fuse(network: _Network) -> _Network:
    """Return a fused copy of an eval-mode network, on the same device and in the same dtype.

    Args:
        network: A network in eval mode; it stays as it is. A fused network may be given again.

    Raises:
        FusionError: When a module is in training mode (BatchNorm would use batch statistics), or when a BatchNorm is
            left that nothing folds.
    """
    training = next((name for name, module in network.named_modules() if module.training), None)
    if training is not None:
        raise FusionError(f"Module {training or 'network'!r} is in training mode: call eval() on the network first.")
    fused = copy.deepcopy(network)
    with torch.no_grad():
        _fuse_children(fused)
    norms = [name for name, module in fused.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms:
        raise FusionError(f"BatchNorm left after fusion: {', '.join(norms)}. Give the layer that holds it fused().")
    return fused.eval().requires_grad_(False)


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        _fuse_children(child)
        if isinstance(child, Fusible):
            setattr(module, name, child.fused())
