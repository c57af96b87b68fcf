"""Kernels set beside plain operators in float64: results and the gradient of every argument."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 2e-6
"""Largest difference, relative to the largest value: some units in the last place of float32."""


def values(*shapes: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tuple(shape), generator=generator) for shape in shapes]


def with_gradients(form: Callable[..., Tensor], arguments: Sequence[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in arguments]
    y = form(*leaves)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves)]


def assert_equal_in_float64(
    kernel: Callable[..., Tensor], reference: Callable[..., Tensor], arguments: Sequence[Tensor]
) -> None:
    expected = with_gradients(reference, [x.double() for x in arguments])
    for actual, value in zip(with_gradients(kernel, arguments), expected, strict=True):
        assert actual.dtype == torch.float32
        # Exponentials end at 1e-38, the smallest that float32 has in full.
        tolerance = TOLERANCE * value.abs().max().item() + 1e-36 if value.numel() else 0.0
        torch.testing.assert_close(actual.double(), value, rtol=0, atol=tolerance)


def assert_same_between_threads(form: Callable[..., Tensor], arguments: Sequence[Tensor], monkeypatch: Any) -> None:
    """Each number of threads gives the same, bit by bit, and as often as it is asked."""
    monkeypatch.setattr("mobilemamba.kernels.threads.SMALLEST_SHARE", 1)
    results = []
    for threads in (1, 2, 3, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(with_gradients(form, arguments))
    for result in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(result, results[0], strict=True))
