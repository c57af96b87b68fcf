"""Training, evaluating and using a MobileMamba to segment images: a class for every pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from datamodules.dense import Picture
from lightning_modules.dense import DenseTask
from lightning_modules.metrics import SegmentationMetrics
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.segmentation_loss import SegmentationLossKind, segmentation_loss
from lightning_modules.smp_decoders import SmpDecoder
from mobilemamba.errors import require
from mobilemamba.semantic_fpn import SemanticFPN

OWN_DECODER = "semantic_fpn"
RECIPE_OPTIMIZER = OptimizerConfig(learning_rate=1.2e-4, reference_batch_size=None)


class SemanticSegmentation(DenseTask):
    """A MobileMamba with a decoder; batches are (images, class indices of pixels), or (images, paths) to predict.

    Args:
        num_classes: Classes of a pixel; linked to the data's.
        ignore_index: Index of pixels that count neither in the loss nor in the metrics; linked to the data's.
        decoder: semantic_fpn, the paper's, or any of segmentation_models_pytorch by its name there, such as
            deeplabv3plus, pspnet, unet, upernet or segformer.
        channels: Channels of Semantic FPN's pyramid; its head has half of them.
        loss: Cross entropy, dice, or the sum of both.
        optimizer: AdamW and its parameter groups.
        options: Further options of DenseTask.

    Raises:
        UserError: When an option cannot be used; names field, value and remedy.
    """

    headline = "miou"
    finds_objects = False
    found = "pixels"

    def __init__(
        self,
        *,
        num_classes: int = 150,
        ignore_index: int = 255,
        decoder: str = OWN_DECODER,
        channels: int = 256,
        loss: SegmentationLossKind = "cross_entropy",
        optimizer: OptimizerConfig = RECIPE_OPTIMIZER,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, optimizer, **options)
        require(num_classes > 1, "model.num_classes", num_classes, "2 or more")
        require(channels > 1, "model.channels", channels, "2 or more")
        self.ignore_index, self.loss = ignore_index, loss
        self.decoder, self.channels = decoder, channels
        self.student = (
            SemanticFPN(self.backbone, num_classes, channels, channels // 2)
            if decoder == OWN_DECODER
            else SmpDecoder(self.backbone, decoder, num_classes)
        )
        self.set_metrics(lambda: SegmentationMetrics(num_classes, ignore_index))

    def head_description(self) -> dict[str, Any]:
        """Return what decides the decoder's weights."""
        width = {"channels": self.channels} if self.decoder == OWN_DECODER else {}
        return {"task": "segmentation", "decoder": self.decoder, "num_classes": self.num_classes, **width}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log its parts.

        Args:
            batch: Images (B, C, H, W) and class indices (B, H, W).
            batch_idx: Number of the batch in its epoch.
        """
        images, targets = batch
        parts = segmentation_loss(self(images), targets, self.loss, self.ignore_index)
        self.log_losses(parts.total, {"cross_entropy": parts.cross_entropy, "dice": parts.dice})
        return parts.total

    def predict_step(self, batch: tuple[Tensor, list[Picture]], batch_idx: int) -> dict[str, Any]:
        """Return "pictures" and "found", class indices (H, W) of the original images in uint8 or int64."""
        images, pictures = batch
        found = []
        for classes, at in zip(self(images).argmax(dim=1), pictures, strict=True):
            shown = classes[None, : at.scaled[0], : at.scaled[1]].to(
                torch.uint8 if self.num_classes <= 256 else torch.int64
            )
            found.append(resize(shown, list(at.size), InterpolationMode.NEAREST_EXACT)[0])
        return {"pictures": pictures, "found": found}
