"""Training, evaluating and using a MobileMamba to segment images: a class for every pixel."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_modules.metrics import SegmentationMetrics
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.segmentation_loss import SegmentationLossKind, segmentation_loss
from lightning_modules.smp_decoders import SmpDecoder
from lightning_modules.starting_weights import Start, freeze_part
from lightning_modules.student import StudentModule
from mobilemamba.backbone import MobileMamba
from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import require
from mobilemamba.published import WeightSource
from mobilemamba.semantic_fpn import SemanticFPN

OWN_DECODER = "semantic_fpn"
BACKBONE = MobileMambaConfig(num_classes=0)
RECIPE_OPTIMIZER = OptimizerConfig(learning_rate=1.2e-4, reference_batch_size=None)
RECIPE_SCHEDULE = ScheduleConfig()


class SemanticSegmentation(StudentModule):
    """A MobileMamba with a decoder; batches are (images, class indices of pixels), or (images, paths) to predict.

    Args:
        network: Architecture of the backbone; its num_classes is 0.
        num_classes: Classes of a pixel; linked to the data's.
        ignore_index: Index of pixels that count neither in the loss nor in the metrics; linked to the data's.
        decoder: semantic_fpn, the paper's, or any of segmentation_models_pytorch by its name there, such as
            deeplabv3plus, pspnet, unet, upernet or segformer.
        channels: Channels of Semantic FPN's pyramid; its head has half of them.
        loss: Cross entropy, dice, or the sum of both.
        optimizer: AdamW and its parameter groups.
        schedule: Learning rate over the run.
        weights: What the backbone begins from, in fit: published, published:in1k, a file of weights or a checkpoint of
            a classifier. Null: random weights.
        weights_kind: Averaged or raw weights, where there are both.
        freeze: Part of the backbone that is not trained: stem, stages.N for all up to that stage, or backbone. Its
            BatchNorms stay in eval mode. Null: everything is trained.
        grad_checkpointing: Recompute blocks in the backward pass: less memory, about a third more time.
        image_size: Height and width of the data's images in pixels, to which it is linked: it tells published variants
            of one architecture apart.

    Raises:
        UserError: When an option cannot be used; names field, value and remedy.
    """

    headline = "miou"

    def __init__(
        self,
        network: MobileMambaConfig = BACKBONE,
        num_classes: int = 150,
        ignore_index: int = 255,
        decoder: str = OWN_DECODER,
        channels: int = 256,
        loss: SegmentationLossKind = "cross_entropy",
        optimizer: OptimizerConfig = RECIPE_OPTIMIZER,
        schedule: ScheduleConfig = RECIPE_SCHEDULE,
        weights: str | None = None,
        weights_kind: WeightSource = "ema",
        freeze: str | None = None,
        grad_checkpointing: bool = False,
        image_size: int | None = None,
    ) -> None:
        super().__init__(network, optimizer, schedule)
        require(network.num_classes == 0, "model.network.num_classes", network.num_classes, "0: there is no classifier")
        require(num_classes > 1, "model.num_classes", num_classes, "2 or more")
        require(optimizer.layer_decay is None, "optimizer.layer_decay", optimizer.layer_decay, "null with a decoder")
        require(channels > 1, "model.channels", channels, "2 or more")
        self.pixel_classes, self.ignore_index, self.loss = num_classes, ignore_index, loss
        self.decoder, self.channels = decoder, channels
        backbone = MobileMamba(network)
        self.start = None if weights is None else Start(backbone, weights, weights_kind, image_size)
        self.started_from = weights
        self._frozen = freeze_part(backbone, freeze)
        backbone.set_grad_checkpointing(grad_checkpointing)
        self.student = (
            SemanticFPN(backbone, num_classes, channels, channels // 2)
            if decoder == OWN_DECODER
            else SmpDecoder(backbone, decoder, num_classes)
        )
        self.set_metrics(lambda: SegmentationMetrics(num_classes, ignore_index))

    @property
    def num_classes(self) -> int:
        """Classes of a pixel."""
        return self.pixel_classes

    def head_description(self) -> dict[str, Any]:
        """Return what decides the decoder's weights."""
        width = {"channels": self.channels} if self.decoder == OWN_DECODER else {}
        return {"task": "segmentation", "decoder": self.decoder, "num_classes": self.num_classes, **width}

    def setup(self, stage: str) -> None:
        """Check that network and data fit.

        Raises:
            TypeError: When the datamodule lacks what this module needs.
            UserError: When classes or image sizes contradict each other.
        """
        data = self.prepare(stage)
        if stage == "fit":
            count = sum(parameter.numel() for parameter in self.student.parameters())
            rank_zero_info(
                f"The network has {count:,} parameters and learns {data.num_classes} classes of pixels, "
                f"{data.batch_size} images per batch and process."
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, C, H, W) to logits (B, num_classes, H, W)."""
        return self.outputs(self.student, images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log its parts.

        Args:
            batch: Images (B, C, H, W) and class indices (B, H, W).
            batch_idx: Number of the batch in its epoch.
        """
        images, targets = batch
        parts = segmentation_loss(self(images), targets, self.loss, self.ignore_index)
        self.log("train/loss", parts.total.detach(), prog_bar=True)
        for name in ("cross_entropy", "dice"):
            part = getattr(parts, name)
            if part is not None:
                self.log(f"train/loss_{name}", part.detach())
        self.log("train/lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
        return parts.total

    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """Return "paths" and "classes", indices (B, H, W) in uint8 or int64, of (images, paths)."""
        images, paths = batch
        classes = self(images).argmax(dim=1)
        return {"paths": list(paths), "classes": classes.to(torch.uint8) if self.num_classes <= 256 else classes}
