"""Turn a trained network into its inference form: no BatchNorm, no scale, no removable skip.

A layer that can be simplified has a method ``fuse()``, which simplifies its children, then itself, and returns an
equivalent layer; it may be called again. So timm's ``reparameterize_model``, which calls outer layers first, works too.
Decoders and detectors of other libraries have no such method: there a BatchNorm is folded into the convolution right
before it in a sequence.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mobilemamba.errors import UserError

_Network = TypeVar("_Network", bound=nn.Module)


def fuse(network: _Network) -> _Network:
    """Return a fused copy of an eval-mode network, on the same device and in the same dtype.

    Args:
        network: A network in eval mode; it is not changed. It may be fused already.

    Raises:
        UserError: When a module is in training mode (BatchNorm would use batch statistics), or a BatchNorm is left.
    """
    training = next((name for name, module in network.named_modules() if module.training), None)
    if training is not None:
        raise UserError(f"Module {training or 'network'!r} must be in eval mode to be fused: call eval() first.")
    fused = copy.deepcopy(network)
    with torch.no_grad():
        fuse_children(fused)
    norms = [name for name, module in fused.named_modules() if isinstance(module, _BatchNorm)]
    if norms:
        raise UserError(f"BatchNorm left after fusion: {', '.join(norms)}. Add a fuse() method to the layer around it.")
    return fused.eval().requires_grad_(False)


def fuse_children(module: nn.Module) -> None:
    """Replace every layer inside a module that has ``fuse()`` with the fused one, in place, and fold sequences."""
    for name, child in module.named_children():
        if hasattr(child, "fuse"):
            setattr(module, name, child.fuse())  # type: ignore[operator]  # found by name, as timm does
        else:
            fuse_children(child)
    if isinstance(module, nn.Sequential):
        _fold_norms(module)


def _fold_norms(layers: nn.Sequential) -> None:
    """Fold each BatchNorm into the convolution right before it, in place; the other layers keep their indices."""
    for before, name in pairwise(layers._modules):
        norm = layers._modules[name]
        owner, last = layers, before
        while isinstance(owner._modules[last], nn.Sequential) and len(owner._modules[last]):  # type: ignore[arg-type]
            owner = owner._modules[last]  # type: ignore[assignment]
            last = next(reversed(owner._modules))
        conv = owner._modules[last]
        if isinstance(norm, _BatchNorm) and isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
            is_transposed = isinstance(conv, nn.ConvTranspose2d)
            setattr(owner, last, fuse_conv_bn_eval(conv, norm, transpose=is_transposed))
            setattr(layers, name, nn.Identity())
