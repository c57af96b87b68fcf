"""Training, evaluating and using a MobileMamba to segment images: a class for every pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from datamodules.dense import Picture
from lightning_modules.checks import enough_for_norms
from lightning_modules.dense import DenseTask
from lightning_modules.metrics import SegmentationMetrics
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.segmentation_loss import SegmentationLossKind, segmentation_loss
from lightning_modules.sliding_window import sliding_logits
from lightning_modules.smp_decoders import SmpDecoder
from mobilemamba.context_decoders import ContextDecoder
from mobilemamba.errors import require
from mobilemamba.semantic_fpn import SemanticFPN

OWN_DECODERS = ("semantic_fpn", "deeplabv3", "pspnet")
OF_SMP = "smp-"
"""Prefix of a decoder of segmentation_models_pytorch that has the same name as one of this project."""
RECIPE_OPTIMIZER = OptimizerConfig(learning_rate=1.2e-4, reference_batch_size=None)


class SemanticSegmentation(DenseTask):
    """A MobileMamba with a decoder; batches are (images, class indices of pixels), or (images, paths) to predict.

    Args:
        num_classes: Classes of a pixel; linked to the data's.
        ignore_index: Index of pixels that are ignored in loss and metrics; linked to the data's.
        decoder: The paper's semantic_fpn, deeplabv3 or pspnet, or a decoder of segmentation_models_pytorch by its name,
            such as deeplabv3plus, unet, upernet or segformer; "smp-" before a name chooses that library's.
        channels: Channels of Semantic FPN's pyramid, whose head has half as many, or of the heads of the other two.
        loss: Cross entropy, dice, or the sum of both.
        auxiliary_weight: Weight of the loss of a second head, which deeplabv3 and pspnet have.
        window: Height and width in pixels of sliding windows in which images are evaluated; logits are averaged where
            windows overlap. Null: images are evaluated whole.
        window_stride: Pixels between two windows. Null: two thirds of the window.
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
        decoder: str = "semantic_fpn",
        channels: int = 256,
        loss: SegmentationLossKind = "cross_entropy",
        auxiliary_weight: float = 0.4,
        window: int | None = None,
        window_stride: int | None = None,
        optimizer: OptimizerConfig = RECIPE_OPTIMIZER,
        **options: Any,
    ) -> None:
        super().__init__(num_classes, optimizer, **options)
        require(num_classes > 1, "model.num_classes", num_classes, "2 or more")
        require(channels > 1, "model.channels", channels, "2 or more")
        self.ignore_index, self.loss = ignore_index, loss
        self.decoder, self.channels, self.auxiliary_weight = decoder, channels, auxiliary_weight
        require(auxiliary_weight >= 0, "model.auxiliary_weight", auxiliary_weight, "0 or more")
        smallest = self.network_config.min_image_size
        require(window is None or window >= smallest, "model.window", window, f"{smallest} pixels or more, or null")
        most = window or 0
        allowed = f"from 1 to model.window = {window}, or null"
        require(window_stride is None or 0 < window_stride <= most, "model.window_stride", window_stride, allowed)
        self.window, self.window_stride = window, window_stride or max(2 * most // 3, 1)
        match decoder:
            case "semantic_fpn":
                self.student = SemanticFPN(self.backbone, num_classes, channels, channels // 2)
            case "deeplabv3" | "pspnet":
                self.student = ContextDecoder(self.backbone, decoder, num_classes, channels)
            case _:
                self.student = SmpDecoder(self.backbone, decoder.removeprefix(OF_SMP), num_classes)
        self.set_metrics(lambda: SegmentationMetrics(num_classes, ignore_index))

    def head_description(self) -> dict[str, Any]:
        """Return the options that decide the decoder's weights."""
        width = {"channels": self.channels} if self.decoder in OWN_DECODERS else {}
        return {"task": "segmentation", "decoder": self.decoder, "num_classes": self.num_classes, **width}

    def outputs(self, network: nn.Module, images: Tensor) -> Any:
        """Return logits (B, num_classes, H, W); in training also a second head's, in evaluation by sliding windows."""
        if self.window is None or network.training:
            return network(images)
        return sliding_logits(network, images, self.window, self.window_stride)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log its parts.

        Args:
            batch: Images (B, C, H, W) and class indices (B, H, W).
            batch_idx: Number of the batch in its epoch.

        Raises:
            UserError: When batches are too small for BatchNorm.
        """
        images, targets = batch
        with enough_for_norms(len(images)):
            logits = self(images)
        logits, *auxiliary = logits if isinstance(logits, tuple) else (logits,)
        parts = segmentation_loss(logits, targets, self.loss, self.ignore_index)
        seconds = [segmentation_loss(other, targets, self.loss, self.ignore_index).total for other in auxiliary]
        second = torch.stack(seconds).sum() if seconds else None
        total = parts.total if second is None else parts.total + self.auxiliary_weight * second
        self.log_losses(total, {"cross_entropy": parts.cross_entropy, "dice": parts.dice, "auxiliary": second})
        return total

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
