"""The inside of a BiMamba, from the depthwise convolution to the gate, as one function of the other kernels.

It keeps its inputs alone for the backward pass, which computes the maps in between again: the convolved one, its
projection, and what the scan gives. Those are half of what would be kept.
"""

from __future__ import annotations

from functools import cache, partial

import torch.nn.functional as F
from torch import Tensor

from mobilemamba import plain
from mobilemamba.derivatives import CompiledKernel
from mobilemamba.kernels import depthwise, norm, scan
from mobilemamba.scan.rows import projected_rows_scan


@cache
def kernel(eps: float) -> CompiledKernel:
    """Return the kernel of one eps; its arguments are those of :func:`mobilemamba.kernels.gated_scan`."""
    return CompiledKernel(partial(_forward, eps=eps), partial(_backward, eps=eps), partial(_plain, eps=eps))


def _forward(u: Tensor, z: Tensor, *weights: Tensor, eps: float) -> Tensor:
    *inner, norm_weight, norm_bias = weights
    y = _between(u, *inner)[-1]
    return norm.kernel(eps).value(y, z, norm_weight, norm_bias)


def _backward(dy: Tensor, u: Tensor, z: Tensor, *weights: Tensor, eps: float) -> tuple[Tensor, ...]:
    conv_weight, conv_bias, x_proj_weight, *scan_weights, norm_weight, norm_bias = weights
    convolved, x_dbl, y = _between(u, conv_weight, conv_bias, x_proj_weight, *scan_weights)
    dscanned, dz, *dnorm = norm.kernel(eps).backward(dy, y, z, norm_weight, norm_bias)
    dconvolved, dx_dbl, *dscan = scan.KERNEL.backward(dscanned, convolved, x_dbl, *scan_weights)
    _pixels(dconvolved).addmm_(_pixels(dx_dbl), x_proj_weight.flatten(1))
    dx_proj = (_pixels(dx_dbl).T @ _pixels(convolved)).view_as(x_proj_weight)
    du, *dconv = depthwise.KERNEL.backward(dconvolved, u, conv_weight, conv_bias)
    return du, dz, *dconv, dx_proj, *dscan, *dnorm


def _between(
    u: Tensor, conv_weight: Tensor, conv_bias: Tensor, x_proj_weight: Tensor, *scan_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maps in between: convolved, (B, D, H, W), its projection, (B, K * (R + 2N), H, W), and scanned."""
    images, _, height, width = u.shape
    convolved = depthwise.KERNEL.value(u, conv_weight, conv_bias)
    x_dbl = _pixels(convolved) @ x_proj_weight.flatten(1).T
    x_dbl = x_dbl.view(images, height, width, len(x_proj_weight)).permute(0, 3, 1, 2)
    return convolved, x_dbl, scan.KERNEL.value(convolved, x_dbl, *scan_weights)


def _pixels(x: Tensor) -> Tensor:
    """Return a map, (B, C, H, W) and channels last, as a matrix (B * H * W, C) in the same memory."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def _plain(u: Tensor, z: Tensor, *weights: Tensor, eps: float) -> Tensor:
    conv_weight, conv_bias, x_proj_weight, *scan_weights, norm_weight, norm_bias = weights
    convolved = plain.depthwise_silu(u, conv_weight, conv_bias)
    y = projected_rows_scan(convolved, F.conv2d(convolved, x_proj_weight), *scan_weights)
    return plain.gated_norm(y, z, norm_weight, norm_bias, eps)
