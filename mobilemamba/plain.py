"""The functions of the compiled kernels in plain operators: for any device and dtype, with all derivatives."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def depthwise_silu(u: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve each channel of u, (B, D, H, W), by its own kernel of weight, (D, 1, k, k), and take SiLU."""
    return F.silu(F.conv2d(u, weight, bias, padding=weight.shape[-1] // 2, groups=u.shape[1]))


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(y) * SiLU(z) over the channels of (B, D, H, W), in the dtype of z."""
    normal = F.layer_norm(y.permute(0, 2, 3, 1).to(weight.dtype), weight.shape, weight, bias, eps)
    return normal.permute(0, 3, 1, 2).to(z.dtype) * F.silu(z)
