"""The inside of the mixers as Numba kernels for CPUs, forward and backward, in float32.

Optional: :mod:`mobilemamba.dispatch` uses them where Numba is installed. Without this folder, and the line there that
imports it, everything runs in plain operators. The functions here take tensors of any dtype and have derivatives of any
order.
"""

from __future__ import annotations

from torch import Tensor

from mobilemamba.kernels import depthwise, haar, norm, scan
from mobilemamba.kernels.recomputing import kernel as _gated_scan


def depthwise_silu(u: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve each channel of u, (B, D, H, W), by its own kernel of weight, (D, 1, k, k), and take SiLU."""
    return depthwise.KERNEL(u.float(), weight.float(), bias.float()).to(u.dtype)


def projected_scan(*arguments: Tensor) -> Tensor:
    """Make step sizes and scan; arguments as of :func:`mobilemamba.dispatch.projected_scan`, result in float32."""
    return scan.KERNEL(*(x.float() for x in arguments))


def gated_norm(y: Tensor, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return LayerNorm(y) * SiLU(z) over the channels of (B, D, H, W), in the dtype of z."""
    return norm.kernel(eps)(y.float(), z.float(), weight.float(), bias.float()).to(z.dtype)


def haar_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve the Haar sub-bands of x, (B, C, H, W), by weight, (4C, 1, k, k), and transform them back."""
    return haar.KERNEL(x.float(), weight.float()).to(x.dtype)


def gated_scan(u: Tensor, z: Tensor, *weights: Tensor, eps: float) -> Tensor:
    """Convolve u, scan it, normalise the result and gate it by z, and keep u and z alone for the gradient.

    Args:
        u: (B, D, H, W).
        z: (B, D, H, W).
        weights: Of the depthwise convolution, (D, 1, k, k), its bias, (D,), and x_proj, (K * (R + 2N), D, 1, 1);
            dt_proj_weight, dt_proj_bias, A_log and D as of :func:`mobilemamba.dispatch.projected_scan`; and weight and
            bias of the norm, (D,).
        eps: Added to the variance of the norm.

    Returns:
        (B, D, H, W) in the dtype of z.
    """
    return _gated_scan(eps)(*(x.float() for x in (u, z, *weights))).to(z.dtype)
