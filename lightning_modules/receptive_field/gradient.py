"""Effective receptive field: how much each pixel contributes to the middle of the last feature map.

The gradient of that position with respect to the image, as in Luo et al., "Understanding the Effective Receptive Field
in Deep Convolutional Neural Networks" (NeurIPS 2016, arXiv:1701.04128), in the form of Ding et al., "Scaling Up Your
Kernels to 31x31" (RepLKNet, CVPR 2022, arXiv:2203.06717; github.com/DingXiaoH/RepLKNet-pytorch/tree/main/erf). As in
RepLKNet only positive channels count: after a LayerNorm the sum of all channels is constant, and its gradient is
rounding noise. Unlike RepLKNet the absolute value of gradients counts, so that pixels that lower the output contribute
too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from mobilemamba.errors import UserError


def contribution_map(network: Any, images: Iterable[Tensor]) -> Tensor:
    """Return the mean over images of the gradient's absolute value, summed over colour channels.

    Args:
        network: A timm model in eval mode.
        images: Normalised images (C, H, W), all of one size, on any device.

    Returns:
        Contributions (H, W), float64, on the CPU.

    Raises:
        UserError: When the network gives no feature map, or no pixel contributes.
    """
    like = next(network.parameters())
    maps = []
    for image in images:
        pixels = image.to(like.device, like.dtype)[None].requires_grad_()
        features = feature_map(network, pixels)  # (1, C, H, W)
        middle = features[0, :, features.shape[2] // 2, features.shape[3] // 2]
        (gradient,) = torch.autograd.grad(middle.relu().sum(), pixels)
        maps.append(gradient[0].abs().sum(0).cpu().double())  # Apple's GPUs have no float64
    contributions = torch.stack(maps).mean(0)
    if not (contributions.isfinite().all() and contributions.any()):
        raise UserError(
            f"The gradient of this {type(network).__name__} is zero everywhere or not finite: check its weights, or "
            "use more images."
        )
    return contributions


def feature_map(network: Any, images: Tensor) -> Tensor:
    """Return a timm model's last feature map.

    Args:
        network: A timm model; where its ``output_fmt`` says "NHWC", its output is permuted.
        images: (B, C, H, W).

    Returns:
        Features (B, C, H, W).

    Raises:
        UserError: When ``forward_features`` returns something else.
    """
    features = network.forward_features(images)
    if not isinstance(features, Tensor):
        raise UserError(
            f"{type(network).__name__}.forward_features gives a {type(features).__name__}, not one (B, C, H, W) "
            "feature map: choose another network."
        )
    if features.ndim != 4:
        raise UserError(
            f"{type(network).__name__}.forward_features gives {features.ndim} dimensions {tuple(features.shape)}, such "
            "as tokens, not a (B, C, H, W) feature map: choose another network."
        )
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        return features.permute(0, 3, 1, 2)
    channels = getattr(network, "num_features", features.shape[1])
    if features.shape[1] != channels == features.shape[3]:
        raise UserError(
            f"{type(network).__name__}.forward_features seems to put channels last {tuple(features.shape)}, but has no "
            "output_fmt that says so: choose another network."
        )
    return features
