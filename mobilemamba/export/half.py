"""Networks in float16, as files of half the size hold them: float32 images in, float32 logits out.

Weights and what operators hand on are float16, scans are float32: the network's own mixed precision, traced. ONNX
Runtime's converter of finished graphs rounds between operators that it leaves in float32, too, and puts nodes in an
order that ONNX's reference evaluator does not take.

What a file is off by depends on who runs it. ONNX Runtime on CPUs without float16 computes in float32, with the rounded
weights; devices round every result. So the network is compared in both ways.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mobilemamba.errors import UserError
from mobilemamba.export.comparison import Comparison, Runner, Shape
from mobilemamba.export.parity import compare_runner

LARGEST = torch.finfo(torch.float16).max

REMEDY = "format = 'onnx-float16' must be 'onnx' for this network"


class HalfPrecision(nn.Module):
    """A network that computes in float16.

    Args:
        network: Fused, in eval mode; maps images to logits, and is converted in place.

    Raises:
        UserError: When a weight is too large for float16.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, weights in network.state_dict().items():
            largest = weights.abs().max().item()
            if largest > LARGEST:
                raise UserError(f"{REMEDY}: {name} reaches {largest:.3g}, beyond float16 (up to {LARGEST:g}).")
        self.network = network.half()

    def forward(self, images: Tensor) -> Tensor:
        """Map float32 images (B, C, H, W) to float32 logits."""
        logits: Tensor = self.network(images.half()).float()
        return logits


def compare_half(network: Runner, half: HalfPrecision, shape: Shape) -> Comparison:
    """Compare a float32 network with itself in float16, in PyTorch, with every operator's result rounded.

    Raises:
        UserError: When values between its operators are too large for float16.
    """

    def rounded(images: Tensor) -> Tensor:
        with _FastConvolutions():  # type: ignore[no-untyped-call]
            return half(images)

    (comparison,) = compare_runner(network, rounded, [shape])
    if not math.isfinite(comparison.max_abs_error):
        raise UserError(f"{REMEDY}: what some of its layers give is beyond float16 (up to {LARGEST:g}).")
    return comparison


class _FastConvolutions(TorchDispatchMode):
    """Computes convolutions in float32 and rounds what they give: no less exact, and ten times faster on most CPUs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            return func(*(value.float() if isinstance(value, Tensor) else value for value in args)).half()
        return func(*args, **(kwargs or {}))
