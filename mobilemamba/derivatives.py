"""Derivatives of compiled kernels: first derivatives by a kernel, all others by plain operators.

A compiled kernel has only a forward and a backward pass. Second derivatives, forward-mode derivatives and
``torch.vmap`` (per-sample gradients, Jacobians) use the plain form of the same function, through the methods that
``torch.autograd.Function`` has for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)  # torch.compile of torch 2.10 hashes one before it has its fields
class CompiledKernel:
    """A function of tensors with a compiled form and a plain one.

    Args:
        forward: Compiled forward pass; returns the result, or a tuple of it and the tensors saved for backward.
        backward: Takes the gradient of the result, the arguments and the saved tensors; returns a gradient for each
            argument.
        plain: The same function in plain operators.
        kept: Number of saved tensors.
        bare: The compiled forward pass as a function that PyTorch's dispatcher does not know, or None.
    """

    forward: Callable[..., Tensor | tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., Tensor]
    kept: int = 0
    bare: Callable[..., Tensor] | None = None

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Return the function's value, with derivatives of any order and kind; in graphs, with first ones alone."""
        if torch.compiler.is_compiling():  # graphs hold the operator, whose first derivatives torch.library knows
            return self.value(*arguments)
        # Neither torch.func's transforms nor modes have public names to ask by.
        if torch.is_inference_mode_enabled() and not torch._C._are_functorch_transforms_active():
            # There are no derivatives, and preparing for them takes longer than a small map; so does the dispatcher.
            return self.value(*arguments) if self.bare is None or _is_watched(arguments) else self.bare(*arguments)
        result: Tensor = _Function.apply(self, *arguments)[0]
        return result

    def value(self, *arguments: Tensor) -> Tensor:
        """Return the function's value alone, unknown to autograd."""
        return _as_tuple(self.forward(*arguments))[0]


def _is_watched(arguments: tuple[Tensor, ...]) -> bool:
    """Return whether a mode or a kind of tensor is to see which operators run."""
    modes = torch._C._len_torch_dispatch_stack()
    return modes > 0 or any(type(x) not in (Tensor, nn.Parameter) for x in arguments)


def _as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(kernel: CompiledKernel, *arguments: Tensor) -> tuple[Tensor, ...]:
        return _as_tuple(kernel.forward(*arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.kernel, *arguments = inputs
        kept = output[1:]
        ctx.mark_non_differentiable(*kept)
        ctx.save_for_backward(*arguments, *kept)
        ctx.save_for_forward(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, kernel = ctx.saved_tensors, ctx.kernel
        if torch.is_grad_enabled():  # this gradient is to be differentiated itself
            pull_back = torch.func.vjp(kernel.plain, *saved[: len(saved) - kernel.kept])[1]
            return None, *pull_back(gradients[0])
        with torch.autocast("cpu", enabled=False):  # backward passes may run in the caller's
            return None, *kernel.backward(gradients[0], *saved)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = ctx.saved_tensors
        given = [torch.zeros_like(x) if t is None else t for x, t in zip(arguments, tangents[1:], strict=True)]
        # Forward mode is computed as the vjp of the vjp: forward mode cannot be nested in the forward mode that calls.
        value, pull_back = torch.func.vjp(ctx.kernel.plain, *arguments)[:2]
        push_forward = torch.func.vjp(pull_back, torch.zeros_like(value))[1]
        return *push_forward(tuple(given)), *[None] * ctx.kernel.kept

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], kernel: CompiledKernel, *arguments: Tensor) -> Any:
        result = torch.vmap(kernel.plain, in_dims[1:], randomness=info.randomness)(*arguments)
        return (result, *[result.new_empty(0)] * kernel.kept), (0, *[None] * kernel.kept)
