"""Training, evaluating and using a MobileMamba to detect objects: torchvision's RetinaNet on the paper's pyramid."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from lightning_modules.dense import DenseTask
from lightning_modules.metrics import MetricSet
from lightning_modules.optimization import OptimizerConfig
from mobilemamba.errors import UserError
from mobilemamba.pyramid import FeaturePyramid

RECIPE_OPTIMIZER = OptimizerConfig(learning_rate=2e-4, reference_batch_size=None)
BACKENDS: tuple[Literal["faster_coco_eval", "pycocotools"], ...] = ("faster_coco_eval", "pycocotools")
FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)


class DetectionMetrics(MetricSet):
    """COCO's average precision of boxes, in [0, 1]; -1 where there is nothing of a size.

    Raises:
        UserError: When no package that computes it is installed.
    """

    def __init__(self) -> None:
        super().__init__()
        backend = next((name for name in BACKENDS if find_spec(name) is not None), None)
        if backend is None:
            raise UserError(
                "Detection needs faster-coco-eval, which is not installed: pip install mobilemamba-lightning[dense]."
            )
        self.precision = MeanAveragePrecision(iou_type="bbox", backend=backend)
        self.precision.warn_on_many_detections = False

    def update(self, detections: list[dict[str, Tensor]], targets: list[dict[str, Tensor]]) -> None:
        """Add a batch: "boxes" (N, 4), "labels" (N,) and, of detections, "scores" (N,) of each image."""
        self.precision.update(detections, targets)

    def compute(self) -> dict[str, Tensor]:
        """Return the average precision over IoU from 0.5 to 0.95, at 0.5 and 0.75, and by COCO's sizes."""
        figures = self.precision.compute()
        return {name: figures[name] for name in FIGURES}


class Detector(nn.Module):
    """RetinaNet on a batch of images of one size that are normalised already.

    Args:
        pyramid: The backbone.
        strides: Of its levels, in pixels.
        num_classes: Classes of boxes.
        image_size: Height and width in pixels.
        anchor_scale: Side of the smallest square anchor of a level, relative to its stride.
    """

    def __init__(
        self, pyramid: FeaturePyramid, strides: list[int], num_classes: int, image_size: int, anchor_scale: float
    ) -> None:
        sizes = tuple(tuple(anchor_scale * stride * octave for octave in OCTAVES) for stride in strides)
        super().__init__()
        self.retina_net = RetinaNet(
            pyramid,
            num_classes,
            min_size=image_size,
            max_size=image_size,
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
            anchor_generator=AnchorGenerator(sizes, (RATIOS,) * len(sizes)),
        )

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Map images (B, 3, S, S) to losses by name in training, else to "boxes", "scores" and "labels" of each."""
        return self.retina_net(list(images), targets)


class ObjectDetection(DenseTask):
    """RetinaNet on a MobileMamba; batches are (images, targets of each), or (images, paths) to predict.

    Args:
        num_classes: Classes of boxes; linked to the data's.
        channels: Channels of the pyramid.
        finer_levels: Levels of the pyramid finer than the first stage.
        coarser_levels: Levels coarser than the last stage.
        anchor_scale: Side of the smallest square anchor of a level, relative to its stride.
        freeze_norms: Keep the backbone's BatchNorms in eval mode, as the recipe does with pretrained weights.
        optimizer: AdamW and its parameter groups.
        image_size: Height and width of the data's images in pixels, to which it is linked.
        options: Further options of DenseTask.

    Raises:
        UserError: When an option cannot be used; names field, value and remedy.
    """

    headline = "map"
    found = "objects"

    def __init__(
        self,
        *,
        num_classes: int = 80,
        channels: int = 256,
        finer_levels: int = 1,
        coarser_levels: int = 1,
        anchor_scale: float = 4.0,
        freeze_norms: bool = True,
        optimizer: OptimizerConfig = RECIPE_OPTIMIZER,
        image_size: int = 640,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, optimizer, image_size=image_size, **options)
        self.levels = {"channels": channels, "finer_levels": finer_levels, "coarser_levels": coarser_levels}
        self.anchor_scale = anchor_scale
        backbone, network = self.backbone, self.network_config
        if freeze_norms:
            self._frozen += [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
        finest, count = network.stem_stride / 2**finer_levels, network.num_stages + finer_levels + coarser_levels
        strides = [int(finest * 2**level) for level in range(count)]
        pyramid = FeaturePyramid(backbone, **self.levels)
        self.student = Detector(pyramid, strides, num_classes, image_size, anchor_scale)
        self.set_metrics(DetectionMetrics)

    def head_description(self) -> dict[str, Any]:
        """Return what decides the detector's weights and anchors."""
        return {"task": "detection", "num_classes": self.num_classes, "anchor_scale": self.anchor_scale, **self.levels}

    def training_step(self, batch: tuple[Tensor, list[dict[str, Tensor]]], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log its parts: of classes (focal) and of boxes (L1)."""
        losses = self.student(*batch)
        total = torch.stack(list(losses.values())).sum()
        self.log_losses(total, losses)
        return total

    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """Return "paths" and "detections" of (images, paths)."""
        images, paths = batch
        return {"paths": list(paths), "detections": self(images)}
