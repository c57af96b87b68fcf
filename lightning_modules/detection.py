"""Training, evaluating and using a MobileMamba to detect objects: torchvision's detectors on the paper's levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from datamodules.dense import Picture
from lightning_modules.checks import data_of
from lightning_modules.dense import DenseTask
from lightning_modules.detection_metrics import DetectionMetrics, at_original_size
from lightning_modules.optimization import OptimizerConfig
from mobilemamba.detectors import ANCHOR_SCALES, LEVELS, Detector, DetectorName
from mobilemamba.errors import UserError, require

RECIPE_OPTIMIZER = OptimizerConfig(learning_rate=2e-4, reference_batch_size=None)


class ObjectDetection(DenseTask):
    """A detector on a MobileMamba; batches are (images, targets of each), or (images, pictures) to predict.

    Args:
        num_classes: Classes of objects; linked to the data's.
        detector: retinanet, ssdlite, or mask_rcnn, which also predicts masks.
        channels: Channels of the pyramid; SSDLite's extra levels have from twice to half as many.
        finer_levels: Levels of the pyramid finer than the first stage; null: 1, or 2 for Mask R-CNN. Not for SSDLite.
        coarser_levels: Levels coarser than the last stage; null: 1, or 0 for Mask R-CNN. Not for SSDLite.
        anchor_scale: Side of a level's smallest square anchor relative to its stride; null: 4, or 8 for Mask R-CNN. For
            SSDLite it is relative to the paper's anchors, and 1 by default.
        freeze_norms: Keep the backbone's BatchNorms in eval mode, as the recipe does with pretrained weights.
        optimizer: AdamW and its parameter groups.
        options: Further options of DenseTask.

    Raises:
        UserError: When an option cannot be used; names field, value and remedy.
    """

    headline = "map"
    finds_objects = True
    found = "objects"

    def __init__(
        self,
        *,
        num_classes: int = 80,
        detector: DetectorName = "retinanet",
        channels: int = 256,
        finer_levels: int | None = None,
        coarser_levels: int | None = None,
        anchor_scale: float | None = None,
        freeze_norms: bool = True,
        optimizer: OptimizerConfig = RECIPE_OPTIMIZER,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, optimizer, **options)
        require(channels > 1, "model.channels", channels, "2 or more")
        finer, coarser = LEVELS[detector]
        self.detector = detector
        self.head: dict[str, Any] = {
            "channels": channels,
            "finer_levels": finer if finer_levels is None else finer_levels,
            "coarser_levels": coarser if coarser_levels is None else coarser_levels,
            "anchor_scale": ANCHOR_SCALES[detector] if anchor_scale is None else anchor_scale,
        }
        require(self.head["coarser_levels"] >= 0, "model.coarser_levels", coarser_levels, "0 or more, or null")
        require(self.head["anchor_scale"] > 0, "model.anchor_scale", anchor_scale, "a positive number, or null")
        if freeze_norms:
            self._frozen += [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]
        self.student = Detector(self.backbone, detector, num_classes, **self.head)
        self.set_metrics(lambda: DetectionMetrics(with_masks=detector == "mask_rcnn"))

    def head_description(self) -> dict[str, Any]:
        """Return the options that decide the detector's weights and anchors."""
        return {"task": "detection", "detector": self.detector, "num_classes": self.num_classes, **self.head}

    def setup(self, stage: str) -> None:
        """Check that network and data fit.

        Raises:
            TypeError: When the datamodule lacks what this module needs.
            UserError: When classes, image sizes or batches do not fit the detector, or masks are missing.
        """
        super().setup(stage)
        data = data_of(self.trainer)
        if self.detector == "mask_rcnn" and stage != "predict" and not getattr(data, "has_masks", False):
            raise UserError(
                "model.detector = 'mask_rcnn' needs data with masks: set data.masks to true, or model.detector to "
                "retinanet."
            )
        if self.detector == "ssdlite" and stage == "fit":
            allowed = "2 or more with model.detector = ssdlite: the BatchNorms of its head need more than one value"
            require(data.batch_size > 1, "data.batch_size", data.batch_size, allowed)

    def training_step(self, batch: tuple[Tensor, list[dict[str, Tensor]]], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log its parts, which are named by torchvision."""
        losses = self.student(*batch)
        total = torch.stack(list(losses.values())).sum()
        self.log_losses(total, {name.removeprefix("loss_"): loss for name, loss in losses.items()})
        return total

    def predict_step(self, batch: tuple[Tensor, list[Picture]], batch_idx: int) -> dict[str, Any]:
        """Return "pictures" and "found" of (images, pictures): boxes and masks are those of the original images."""
        images, pictures = batch
        found = zip(self(images), pictures, strict=True)
        return {"pictures": pictures, "found": [at_original_size(one, at.scaled, at.size) for one, at in found]}
