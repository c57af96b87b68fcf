"""How a kernel becomes a function of the network: two operators of PyTorch, with derivatives of every kind.

Operators take maps (B, C, H, W) of any memory layout and give theirs channels last, as the loops want them. PyTorch's
operation counter and tensors without numbers know them; so does its profiler, but for inference mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mobilemamba.derivatives import CompiledKernel
from mobilemamba.kernels.vector_math import Floats

Shape = Sequence[int]


def register(
    forward: Callable[..., Tensor],
    backward: Callable[..., tuple[Tensor, ...]],
    plain: Callable[..., Tensor],
    maps: int,
    flops: Callable[..., int] | None = None,
    backward_flops: int = 3,
) -> CompiledKernel:
    """Make operators of the two passes of a kernel, called as the forward pass with "_cpu" and "_cpu_backward".

    Args:
        forward: Takes float32 tensors, maps first, and perhaps a number; its result has the first one's shape.
        backward: Takes the gradient of the result and the same arguments; returns a gradient for each tensor of them.
        plain: The same function in plain operators.
        maps: How many arguments are maps, (B, C, H, W).
        flops: Returns the operations of the forward pass from the shapes of its arguments.
        backward_flops: The backward pass has so many times as many.
    """
    name = f"{forward.__name__}_cpu"
    forward_op, backward_op = (
        torch.library.custom_op(f"mobilemamba::{operator}", function, mutates_args=(), device_types="cpu")
        for operator, function in ((name, forward), (f"{name}_backward", backward))
    )

    def gradients(dy: Tensor, *arguments: Tensor | float) -> tuple[Tensor, ...]:
        tensors = [x for x in arguments if isinstance(x, Tensor)]
        return (*map(empty_map, tensors[:maps]), *(x.new_empty(x.shape) for x in tensors[maps:]))

    forward_op.register_fake(lambda x, *_: empty_map(x))
    backward_op.register_fake(gradients)
    forward_op.register_autograd(partial(_pull_back, backward_op), setup_context=_save)
    if flops is not None:
        register_flop_formula(getattr(torch.ops.mobilemamba, name))(lambda *shapes, **_: flops(*shapes))
        register_flop_formula(getattr(torch.ops.mobilemamba, f"{name}_backward"))(
            lambda dy_shape, *shapes, **_: backward_flops * flops(*shapes)
        )
    return CompiledKernel(forward_op, backward_op, plain, bare=forward)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the arguments for the backward pass in a compiled graph."""
    ctx.numbers = [x for x in inputs if not isinstance(x, Tensor)]  # they come last
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))


def _pull_back(backward: Callable[..., tuple[Tensor, ...]], ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *backward(dy, *ctx.saved_tensors, *ctx.numbers), *[None] * len(ctx.numbers)


def empty_map(like: Tensor) -> Tensor:
    """Return a map of the same shape, (B, C, H, W), channels last in memory."""
    return torch.empty_like(like, memory_format=torch.channels_last)


def pixels(x: Tensor) -> Floats:
    """Return a map, (B, C, H, W), as an array (B, H, W, C): the same memory where channels are last in it."""
    return array(x.permute(0, 2, 3, 1))


def array(x: Tensor) -> Floats:
    """Return a tensor as an array without gaps: the same memory where it has none."""
    return x.detach().contiguous().numpy()
