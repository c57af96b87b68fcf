"""Detectors as files: one image in, boxes, scores, labels and perhaps masks out, compared after matching.

Which detections there are, and in which order, depends on thresholds that rounding may cross. So each of the network's
is compared with the nearest one of the file that has its label; one without such a partner is a disagreement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torchvision.ops import box_iou, nms
from torchvision.ops import boxes as box_operators

from mobilemamba.errors import UserError
from mobilemamba.export.comparison import Comparison, Shape
from mobilemamba.export.formats.base import quiet

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


def trace_detector(network: nn.Module, image: Tensor) -> ExportedProgram:
    """Trace a detector for torch.export.

    Args:
        network: A fused :class:`SingleImageDetector` in eval mode.
        image: (1, C, H, W).

    Raises:
        UserError: When torch.export gives up: sizes of a second stage depend on what the first one found.
    """
    with _suppression_without_branches(max(image.shape[2:])), torch.no_grad(), quiet():
        try:
            return torch.export.export(network, (image,))
        except GuardOnDataDependentSymNode as error:
            raise UserError(
                "format = 'pt2' must be 'onnx' for this detector: torch.export cannot trace its second stage."
            ) from error


@contextmanager
def _suppression_without_branches(side: int) -> Iterator[None]:
    """Let torchvision suppress overlapping boxes class by class in one call, as it does while it is traced otherwise.

    Its own function asks how many boxes there are, which torch.export does not know.

    Args:
        side: Longer side of the image in pixels, within which all boxes lie.
    """

    def suppress(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
        apart = classes.to(boxes)[:, None] * (side + 1)  # boxes of different classes do not meet
        return nms(boxes + apart, scores, iou_threshold)

    own, box_operators.batched_nms = box_operators.batched_nms, suppress
    try:
        yield
    finally:
        box_operators.batched_nms = own


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
