"""Derivatives of compiled kernels: first ones by a kernel of their own, all others by plain operators.

Compiled kernels have a forward and a backward pass and nothing else. Second derivatives, forward-mode derivatives and
``torch.vmap`` (per-sample gradients, Jacobians) are those of the plain form of the same function, through the rules
that ``torch.autograd.Function`` has for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class CompiledKernel:
    """A function of tensors with a compiled form and a plain one.

    Args:
        forward: Compiled forward pass; returns the result, or a tuple of it and what the backward pass wants kept.
        backward: Takes the gradient of the result, the arguments and what was kept; returns a gradient for each
            argument.
        plain: The same function in plain operators.
        kept: How many tensors are kept.
    """

    forward: Callable[..., Tensor | tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, ...]]
    plain: Callable[..., Tensor]
    kept: int = 0

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Return the function's value, with derivatives of any order and kind."""
        # A compiled graph holds the operator itself, whose first derivatives torch.library knows.
        compiling = torch.compiler.is_compiling()
        result = self.forward(*arguments) if compiling else _Function.apply(self, *arguments)
        return result[0] if isinstance(result, tuple) else result


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(kernel: CompiledKernel, *arguments: Tensor) -> tuple[Tensor, ...]:
        result = kernel.forward(*arguments)
        return result if isinstance(result, tuple) else (result,)

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
        return None, *kernel.backward(gradients[0], *saved)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        arguments = ctx.saved_tensors
        given = [torch.zeros_like(x) if t is None else t for x, t in zip(arguments, tangents[1:], strict=True)]
        # The transpose of the transpose: forward mode cannot be nested into the forward mode that asks.
        value, pull_back = torch.func.vjp(ctx.kernel.plain, *arguments)[:2]
        push_forward = torch.func.vjp(pull_back, torch.zeros_like(value))[1]
        return *push_forward(tuple(given)), *[None] * ctx.kernel.kept

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], kernel: CompiledKernel, *arguments: Tensor) -> Any:
        result = torch.vmap(kernel.plain, in_dims[1:], randomness=info.randomness)(*arguments)
        return (result, *[result.new_empty(0)] * kernel.kept), (0, *[None] * kernel.kept)
