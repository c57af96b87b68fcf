"""Parameters and FLOPs of the paper's seven rows of detection and segmentation, compared with the published ones.

One multiply-accumulate is one FLOP, as in the paper. Nothing is computed: only shapes go through the networks. For
detectors, the backbone with its pyramid and the heads on its levels are counted, and Mask R-CNN's second stage for
1,000 boxes and 100 masks, as MMDetection's counter does. Anchors, non-maximum suppression and RoI pooling do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssdlite import SSDLiteHead

from benchmarks.publish import around_markers, replace_between, table_of
from mobilemamba.backbone import MobileMamba
from mobilemamba.complexity import Complexity, complexity
from mobilemamba.context_decoders import ContextDecoder
from mobilemamba.pyramid import FeaturePyramid, SSDLiteLevels
from mobilemamba.semantic_fpn import SemanticFPN
from mobilemamba.variants import VARIANTS

MARKERS = "dense-cost"

COCO_CLASSES, PIXEL_CLASSES = 80, 150
BOXES, MASKS = 1000, 100
"""Regions for which MMDetection counts Mask R-CNN's second stage."""

RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Row:
    """A published row.

    Args:
        name: Name of the row.
        image_size: Height and width in pixels.
        build: Builds the network to count.
        parameters: Published, in millions.
        flops: Published, in 1e9.
    """

    name: str
    image_size: tuple[int, int]
    build: Callable[[], nn.Module]
    parameters: float
    flops: float


class SingleStage(nn.Module):
    """The parts of a detector that compute on feature maps: levels and heads.

    Args:
        levels: Maps images to levels by name.
        head: Maps a list of levels to predictions.
        unused: The backbone's last stage, if the paper's network computes it without using it.
    """

    def __init__(self, levels: nn.Module, head: nn.Module, unused: nn.Module | None = None) -> None:
        super().__init__()
        self.levels, self.head, self.unused = levels, head, unused

    def forward(self, images: Tensor) -> object:
        """Map images (B, C, H, W) to the outputs of the heads."""
        levels = list(self.levels(images).values())
        if self.unused is not None:
            self.unused(levels[1])
        return self.head(levels)


class TwoStages(nn.Module):
    """The parts of Mask R-CNN that compute on feature maps and regions.

    Args:
        network: torchvision's.
    """

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> object:
        """Map images (B, C, H, W) to the outputs of the first stage and of the second one's three heads."""
        levels = list(self.network.backbone(images).values())
        heads = self.network.roi_heads
        channels = levels[0].shape[1]
        boxes = heads.box_predictor(heads.box_head(levels[0].new_empty(BOXES, channels, 7, 7)))
        masks = heads.mask_predictor(heads.mask_head(levels[0].new_empty(MASKS, channels, 14, 14)))
        return self.network.rpn.head(levels), boxes, masks


def backbone(variant: str) -> MobileMamba:
    """Return a variant's network."""
    return MobileMamba(VARIANTS[f"mobilemamba_{variant}"].config)


def mask_rcnn() -> nn.Module:
    """Return Mask R-CNN on levels at strides 4 to 64."""
    anchors = AnchorGenerator(tuple((side,) for side in (32, 64, 128, 256, 512)), (RATIOS,) * 5)
    pyramid = FeaturePyramid(backbone("b1"), finer_levels=2, coarser_levels=0)
    return TwoStages(MaskRCNN(pyramid, COCO_CLASSES + 1, rpn_anchor_generator=anchors))


def retina_net() -> nn.Module:
    """Return RetinaNet on levels at strides 8 to 128."""
    anchors = AnchorGenerator(tuple((side,) * 3 for side in (32, 64, 128, 256, 512)), (RATIOS,) * 5)
    network = RetinaNet(FeaturePyramid(backbone("b1")), COCO_CLASSES, anchor_generator=anchors)
    return SingleStage(network.backbone, network.head)


def ssdlite() -> nn.Module:
    """Return SSDLite on two stages and four further levels."""
    network = backbone("b1")
    unused = network.stages[-1]
    levels = SSDLiteLevels(network)
    boxes = DefaultBoxGenerator([[2, 3]] * len(levels.out_channels), min_ratio=0.2, max_ratio=0.95)
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    head = SSDLiteHead(levels.out_channels, boxes.num_anchors_per_location(), COCO_CLASSES + 1, norm)
    return SingleStage(levels, head, unused)


ROWS = (
    Row("Mask R-CNN, B1", (800, 1152), mask_rcnn, 38.0, 178),
    Row("RetinaNet, B1", (800, 1152), retina_net, 27.1, 151),
    Row("SSDLite, B1", (320, 320), ssdlite, 18.0, 1.7),
    Row("SSDLite, B1", (512, 512), ssdlite, 18.0, 4.4),
    Row("Semantic FPN, B4", (512, 512), lambda: SemanticFPN(backbone("b4"), PIXEL_CLASSES), 19.8, 5.6),
    Row("DeepLabv3, B4", (512, 512), lambda: ContextDecoder(backbone("b4"), "deeplabv3", PIXEL_CLASSES), 23.4, 4.7),
    Row("PSPNet, B4", (512, 512), lambda: ContextDecoder(backbone("b4"), "pspnet", PIXEL_CLASSES), 20.5, 4.5),
)
"""The paper's section 4.2. It does not say at which size detectors were counted. MMDetection takes the mean over COCO's
images, of 800 x up to 1333 pixels; at 800 x 1152 both have the published FLOPs."""


def dense_cost(document: Path = Path("docs/dense.md")) -> None:
    """Count parameters and FLOPs of the paper's rows of detection and segmentation.

    Args:
        document: Markdown file whose table between the markers dense-cost:begin and dense-cost:end is replaced.
    """
    around_markers(document, MARKERS)  # fails before the work
    replace_between(document, MARKERS, cost_table([(row, cost(row)) for row in ROWS]))


def cost(row: Row) -> Complexity:
    """Count parameters and multiply-accumulates of a row."""
    with torch.device("meta"):
        network = row.build()
    return complexity(network, row.image_size)


def cost_table(costs: list[tuple[Row, Complexity]]) -> str:
    """Return a Markdown table of counted and published costs."""
    return table_of(
        "row | pixels | M parameters | published | GFLOPs | published",
        (
            f"{row.name} | {'x'.join(map(str, row.image_size))} | {one.parameters / 1e6:.1f} | {row.parameters}"
            f"| {one.total_macs / 1e9:.1f} | {row.flops}"
            for row, one in costs
        ),
    )
