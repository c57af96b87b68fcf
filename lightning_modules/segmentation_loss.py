"""Losses of semantic segmentation: logits and class indices of pixels in, named parts out."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SegmentationLossKind = Literal["cross_entropy", "dice", "both"]

SMOOTHING = 1.0
"""Added to both sides of the Dice coefficient, so that a class without pixels has no loss."""


class SegmentationLossParts(NamedTuple):
    """Scalars; cross entropy in nats per pixel, dice from 0 to 1. A part that is not used is None."""

    total: Tensor
    cross_entropy: Tensor | None
    dice: Tensor | None


def segmentation_loss(
    logits: Tensor, targets: Tensor, kind: SegmentationLossKind, ignore_index: int
) -> SegmentationLossParts:
    """Return the loss of a batch in float32; "both" is the sum of the two.

    Args:
        logits: (B, num_classes, H, W).
        targets: Class indices (B, H, W).
        kind: Cross entropy, dice, or both.
        ignore_index: Index of ignored pixels.
    """
    logits = logits.float()
    entropy = pixel_cross_entropy(logits, targets, ignore_index) if kind != "dice" else None
    dice = dice_loss(logits, targets, ignore_index) if kind != "cross_entropy" else None
    return SegmentationLossParts(
        torch.stack([part for part in (entropy, dice) if part is not None]).sum(), entropy, dice
    )


def pixel_cross_entropy(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Mean cross entropy in nats over pixels that are not ignored; 0 if all are. Arguments as above."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=ignore_index, reduction="sum")
    return total / (targets != ignore_index).sum().clamp(min=1)


def dice_loss(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """One minus the Dice coefficient of probabilities and targets, mean over classes, sums over the whole batch.

    Milletari et al., arXiv:1606.04797, with the plain denominator.
    """
    counts = (targets != ignore_index).unsqueeze(1)
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    truth = (targets.unsqueeze(1) == classes) & counts
    probabilities = logits.float().softmax(dim=1) * counts
    both = (probabilities * truth).sum(dim=(0, 2, 3))
    either = (probabilities + truth).sum(dim=(0, 2, 3))
    return (1 - (2 * both + SMOOTHING) / (either + SMOOTHING)).mean()
