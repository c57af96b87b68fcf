"""Whether modules may run as one kernel, which keeps less for the backward pass than they do one by one."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from mobilemamba import dispatch


def kernels_that_recompute(x: Tensor, modules: Mapping[nn.Module, type[nn.Module]]) -> ModuleType | None:
    """Return the compiled kernels where gradients are wanted and calling the modules would do nothing else.

    Args:
        x: Input of the first.
        modules: What would not be called, and the class that the kernel computes: modules that were replaced, pruned or
            have hooks are called.
    """
    if not torch.is_grad_enabled() or x.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return None
    return dispatch._kernels_for(x) if all(_is_plain(*pair) for pair in modules.items()) else None


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) is kind and not any(hooks) and not _has_any_global_hook()
