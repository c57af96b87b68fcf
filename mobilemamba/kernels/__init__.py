"""The inside of the mixers as Numba kernels for CPUs, forward and backward, in float32.

Optional: :mod:`mobilemamba.dispatch` uses them where Numba is installed. Without this folder, and the line there that
imports it, everything runs in plain operators. A kernel takes tensors, channels last; the functions here take and
return maps as the network has them, (B, C, H, W) in any dtype, and have derivatives of any order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch.nn.functional as F
from torch import Tensor

from mobilemamba import wavelet
from mobilemamba.derivatives import CompiledKernel
from mobilemamba.kernels.depthwise import depthwise_silu_op, depthwise_silu_op_backward
from mobilemamba.kernels.gated_norm import gated_norm_op, gated_norm_op_backward
from mobilemamba.kernels.haar import haar_conv_op, haar_conv_op_backward
from mobilemamba.kernels.scan import projected_scan_op, projected_scan_op_backward
from mobilemamba.scan.rows import channels_last_scan


def depthwise_silu(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel of u, (B, D, H, W), by its own kernel of weight, (D, 1, k, k), and take SiLU."""
    return _channels_first(_DEPTHWISE(_channels_last(u), weight.float(), bias.float())).to(u.dtype)


def projected_scan(
    u: Tensor, x_dbl: Tensor, dt_proj_weight: Tensor, dt_proj_bias: Tensor, A_log: Tensor, D: Tensor
) -> Tensor:
    """Make step sizes and scan; arguments as of :func:`mobilemamba.dispatch.projected_scan`, result in float32."""
    weights = (x.float() for x in (dt_proj_weight, dt_proj_bias, A_log, D))
    return _channels_first(_SCAN(_channels_last(u), _channels_last(x_dbl), *weights))


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(y) * SiLU(z) over the channels of (B, D, H, W), in the dtype of z."""
    kernel = _gated_norm(eps)
    return _channels_first(kernel(_channels_last(y), _channels_last(z), weight.float(), bias.float())).to(z.dtype)


def haar_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the Haar sub-bands of x, (B, C, H, W), by weight, (4C, 1, k, k), and transform them back."""
    return _channels_first(_HAAR(_channels_last(x), weight.float())).to(x.dtype)


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).float()


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def plain_depthwise_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The function of the kernel in plain operators, channels last."""
    convolved = F.conv2d(_channels_first(x), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    return F.silu(convolved).permute(0, 2, 3, 1)


def plain_gated_norm(x: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The function of the kernel in plain operators, channels last."""
    return F.layer_norm(x, weight.shape, weight, bias, eps) * F.silu(z)


def plain_haar_conv(x: Tensor, weight: Tensor) -> Tensor:
    """The function of the kernel in plain operators, channels last."""
    filters = wavelet.haar_filters().to(x.device, x.dtype).repeat(x.shape[-1], 1, 1, 1)
    return wavelet.haar_conv(_channels_first(x), [weight], filters, filters).permute(0, 2, 3, 1)


def _alone(operator: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Return the forward pass of a kernel that keeps nothing."""
    return lambda *arguments: (operator(*arguments),)


_DEPTHWISE = CompiledKernel(_alone(depthwise_silu_op), depthwise_silu_op_backward, plain_depthwise_silu)
_SCAN = CompiledKernel(_alone(projected_scan_op), projected_scan_op_backward, channels_last_scan)
_HAAR = CompiledKernel(_alone(haar_conv_op), haar_conv_op_backward, plain_haar_conv)


@cache
def _gated_norm(eps: float) -> CompiledKernel:
    return CompiledKernel(
        _alone(partial(gated_norm_op, eps=eps)),
        partial(gated_norm_op_backward, eps=eps),
        partial(plain_gated_norm, eps=eps),
    )
