"""Detectors as files: one image in, boxes, scores, labels and perhaps masks out, compared after matching.

Which detections there are, and in which order, depends on thresholds that rounding may cross. So each of the network's
is compared with the nearest one of the file that has its label; one without such a partner is a disagreement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from mobilemamba.export.parity import Comparison, Shape

Detections = dict[str, Tensor]
"""Of one image: "boxes" (N, 4) in pixels, "scores" (N,), "labels" (N,), and "masks" (N, 1, H, W) where there are."""

PARTNER_OVERLAP = 0.5
"""Least IoU of two boxes that are taken for the same detection."""


class SingleImageDetector(nn.Module):
    """A detector as graphs have it.

    Args:
        detector: Maps images (B, C, H, W) to detections of each, in eval mode.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Detections:
        """Map one image (1, C, H, W) to its detections, in a fixed order of names."""
        (found,) = self.detector(images)
        return {name: found[name] for name in sorted(found)}


def compare_detections(references: Sequence[Detections], candidates: Sequence[Detections], shape: Shape) -> Comparison:
    """Compare what two forms find in the same images.

    Args:
        references: What the network finds in each image.
        candidates: What the other form finds.
        shape: Shape of a batch of one image.

    Returns:
        Differences of boxes relative to the image's longer side, of scores and masks as they are; top1_agreement is the
        share of detections with a partner, and response the highest score: without detections nothing is shown.
    """
    error, found, partners, best = 0.0, 0, 0, 0.0
    for reference, candidate in zip(references, candidates, strict=True):
        pairs = matched(reference, candidate)
        found += max(len(reference["labels"]), len(candidate["labels"]))
        partners += len(pairs)
        best = max(best, *reference["scores"].tolist(), 0.0)
        ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
        for name in reference.keys() - {"labels"} if pairs else ():
            scale = max(shape[2:]) if name == "boxes" else 1
            difference = (reference[name][ours].double() - candidate[name][theirs].double()).abs().max().item() / scale
            error = math.inf if math.isnan(difference) else max(error, difference)
    return Comparison(shape, len(references), error, partners / found if found else 1.0, best)


def matched(reference: Detections, candidate: Detections) -> list[tuple[int, int]]:
    """Return indices of detections that belong together: of one label, those that overlap most first."""
    same = reference["labels"][:, None] == candidate["labels"][None]
    overlaps = torch.where(same, box_iou(reference["boxes"].double(), candidate["boxes"].double()), 0)
    pairs = []
    while overlaps.numel() and overlaps.max() >= PARTNER_OVERLAP:
        # Of boxes that overlap alike, as duplicates do, the first ones belong together.
        ours, theirs = divmod(int(overlaps.argmax()), overlaps.shape[1])
        pairs.append((ours, theirs))
        overlaps[ours], overlaps[:, theirs] = 0, 0
    return pairs
