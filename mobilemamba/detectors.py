"""torchvision's detectors on a MobileMamba, with levels and anchors of the paper (arXiv:2411.15941, section 4.2)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import MultiScaleRoIAlign

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import require
from mobilemamba.pyramid import FeaturePyramid, SSDLiteLevels

DetectorName = Literal["retinanet", "mask_rcnn", "ssdlite"]

LEVELS: dict[DetectorName, tuple[int, int]] = {"retinanet": (1, 1), "mask_rcnn": (2, 0), "ssdlite": (0, 4)}
"""Default number of levels finer and coarser than the stages for each detector; SSDLite's cannot be changed."""

ANCHOR_SCALES: dict[DetectorName, float] = {"retinanet": 4.0, "mask_rcnn": 8.0, "ssdlite": 1.0}

OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)
POOLED_LEVELS = 4
"""Mask R-CNN pools objects from this many levels, finest first; the others only give proposals."""

SSDLITE_SIZES = tuple(size / 320 for size in (48, 100, 150, 202, 253, 304, 320))
"""Anchor sides of the levels, and one beyond the last, relative to the image's side."""

MOST_DETECTIONS = 100
"""Per image: COCO's average precision counts no more."""


class Detector(nn.Module):
    """A detector for batches of normalised images of one size.

    Args:
        backbone: The network; its classifier is removed, and with SSDLite its last stage too.
        name: Which detector.
        num_classes: Classes of objects.
        channels: Channels of the pyramid; SSDLite's extra levels have from twice to half as many.
        finer_levels: Levels of the pyramid finer than the first stage.
        coarser_levels: Levels of the pyramid coarser than the last stage.
        anchor_scale: Side of a level's smallest square anchor relative to its stride; for SSDLite, to the paper's side.
    """

    def __init__(
        self,
        backbone: MobileMamba,
        name: DetectorName,
        num_classes: int,
        channels: int,
        finer_levels: int,
        coarser_levels: int,
        anchor_scale: float,
    ) -> None:
        super().__init__()
        finest, count = backbone.config.stem_stride / 2**finer_levels, backbone.config.num_stages
        strides = [finest * 2**level for level in range(count + finer_levels + coarser_levels)]
        # Classes of Mask R-CNN and SSDLite begin at 1: class 0 is the background.
        self.first_class = 0 if name == "retinanet" else 1
        classes = num_classes + self.first_class
        if name == "ssdlite":
            self.detector = _ssdlite(backbone, classes, channels, anchor_scale)
        else:
            pyramid = FeaturePyramid(backbone, channels, finer_levels, coarser_levels)
            make = _retinanet if name == "retinanet" else _mask_rcnn
            self.detector = make(pyramid, classes, [anchor_scale * stride for stride in strides])
        self.detector.transform = NoTransform()

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Map images (B, 3, H, W) to losses by name in training, otherwise to the detections of each image.

        Args:
            images: Normalised.
            targets: In training "boxes" (N, 4) in pixels, "labels" (N,) from 0 and, for Mask R-CNN, "masks" (N, H, W).

        Returns:
            Losses, or "boxes" (N, 4), "scores" and "labels" (N,) and, with Mask R-CNN, "masks" (N, 1, 28, 28): the
            probability of each cell of a box to belong to the object.
        """
        if self.training and targets is not None:
            return self.detector(images, [{**one, "labels": one["labels"] + self.first_class} for one in targets])
        return [{**found, "labels": found["labels"] - self.first_class} for found in self.detector(images)]


class NoTransform(nn.Module):
    """Replaces torchvision's transform, which would resize, normalise and pad images that are ready already."""

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        """Return the batch, with the size of each image."""
        return ImageList(images, [(images.shape[-2], images.shape[-1])] * len(images)), targets

    def postprocess(self, detections: Any, sizes: Any, original_sizes: Any) -> Any:
        """Return detections unchanged: boxes in pixels of the batch, masks relative to their boxes."""
        return detections


def _retinanet(pyramid: FeaturePyramid, num_classes: int, sides: list[float]) -> RetinaNet:
    anchors = AnchorGenerator(
        tuple(tuple(side * octave for octave in OCTAVES) for side in sides), (RATIOS,) * len(sides)
    )
    return RetinaNet(pyramid, num_classes, anchor_generator=anchors, detections_per_img=MOST_DETECTIONS)


def _mask_rcnn(pyramid: FeaturePyramid, num_classes: int, sides: list[float]) -> MaskRCNN:
    pooled = [str(level) for level in range(min(POOLED_LEVELS, len(sides)))]
    return MaskRCNN(
        pyramid,
        num_classes,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sides), (RATIOS,) * len(sides)),
        box_roi_pool=MultiScaleRoIAlign(pooled, output_size=7, sampling_ratio=2),
        mask_roi_pool=MultiScaleRoIAlign(pooled, output_size=14, sampling_ratio=2),
        box_detections_per_img=MOST_DETECTIONS,
    )


def _ssdlite(backbone: MobileMamba, num_classes: int, channels: int, anchor_scale: float) -> SSD:
    stages = backbone.config.num_stages
    require(stages == 3, "the number of stages", stages, "3 with ssdlite, whose anchors are for six levels")
    levels = SSDLiteLevels(backbone, (2 * channels, channels, channels, channels // 2))
    scales = [anchor_scale * size for size in SSDLITE_SIZES]
    boxes = DefaultBoxGenerator([[2, 3]] * len(levels.out_channels), scales=scales)
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    head = SSDLiteHead(levels.out_channels, boxes.num_anchors_per_location(), num_classes, norm)
    detections = {"score_thresh": 0.02, "detections_per_img": MOST_DETECTIONS}
    return SSD(levels, boxes, (1, 1), num_classes, head=head, **detections)
