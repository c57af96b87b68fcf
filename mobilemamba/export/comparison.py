"""How far the answers of one form of a network are from those of another, and what is compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mobilemamba.errors import UserError

Answer = Tensor | dict[str, Tensor]
"""Logits (B, num_classes), or (B, num_classes, H, W) of pixels; or the detections of one image (:mod:`.detections`)."""

Runner = Callable[[Tensor], Any]
"""Maps images (B, C, H, W) to an :data:`Answer`, both float32 on the CPU."""

Shape = tuple[int, int, int, int]

TIE = 1e-5
"""Classes whose reference logits are closer than this share of the largest are one: float32 cannot tell them apart."""


@dataclass(frozen=True)
class Comparison:
    """Answers of two forms to batches of one shape.

    Args:
        shape: Shape of a batch, (B, C, H, W).
        images: Images in all batches.
        max_abs_error: Largest difference of a logit, relative to the largest absolute logit.
        top1_agreement: Share of images, or of pixels, with the same top class.
        response: Largest difference between the network's logits for two images, relative like max_abs_error; 0 for
            a single image.
    """

    shape: Shape
    images: int
    max_abs_error: float
    top1_agreement: float
    response: float


def compare_logits(reference: Tensor, candidate: Tensor, shape: Shape) -> Comparison:
    """Compare the answers to the same images.

    Args:
        reference: Logits of the network, (images, num_classes), or (images, num_classes, H, W).
        candidate: Logits of the other form.
        shape: Shape of a batch, for the report.

    Raises:
        UserError: When the reference has no finite answer to compare with, or the shapes differ.
    """
    if candidate.shape != reference.shape:
        raise UserError(
            f"The file answers images of shape {shape} with shape {tuple(candidate.shape)}, "
            f"the network with {tuple(reference.shape)}. No file was written."
        )
    if not reference.isfinite().all():
        raise UserError("The network itself gives logits that are not finite: its weights are damaged; retrain it.")
    reference, candidate = reference.double(), candidate.double()
    scale = max(reference.abs().max().item(), torch.finfo(torch.float32).tiny)
    error = (candidate - reference).abs().max().item() / scale
    chosen = reference.gather(1, candidate.argmax(1, keepdim=True))
    agrees = chosen >= reference.amax(1, keepdim=True) - TIE * scale
    response = (reference.amax(0) - reference.amin(0)).max().item() / scale
    error = math.inf if math.isnan(error) else error
    return Comparison(shape, len(reference), error, agrees.double().mean().item(), response)
