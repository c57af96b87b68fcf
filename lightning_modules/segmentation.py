"""Training, evaluating and using a MobileMamba to segment images: a class for every pixel."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_modules.checks import enough_for_norms
from lightning_modules.metrics import SegmentationMetrics
from lightning_modules.optimization import OptimizerConfig, ScheduleConfig
from lightning_modules.segmentation_loss import SegmentationLossKind, segmentation_loss
from lightning_modules.sliding_window import sliding_logits
from lightning_modules.smp_decoders import SmpDecoder
from lightning_modules.starting_weights import Start, freeze_part
from lightning_modules.student import StudentModule
from mobilemamba.backbone import MobileMamba
from mobilemamba.config import MobileMambaConfig
from mobilemamba.context_decoders import ContextDecoder
from mobilemamba.errors import require
from mobilemamba.published import WeightSource
from mobilemamba.semantic_fpn import SemanticFPN

OWN_DECODERS = ("semantic_fpn", "deeplabv3", "pspnet")
OF_SMP = "smp-"
"""In front of the name of a decoder of segmentation_models_pytorch that has the name of another one here."""
BACKBONE = MobileMambaConfig(num_classes=0)
RECIPE_OPTIMIZER = OptimizerConfig(learning_rate=1.2e-4, reference_batch_size=None)
RECIPE_SCHEDULE = ScheduleConfig()


class SemanticSegmentation(StudentModule):
    """A MobileMamba with a decoder; batches are (images, class indices of pixels), or (images, paths) to predict.

    Args:
        network: Architecture of the backbone; its num_classes is 0.
        num_classes: Classes of a pixel; linked to the data's.
        ignore_index: Index of pixels that count neither in the loss nor in the metrics; linked to the data's.
        decoder: semantic_fpn, deeplabv3 or pspnet, the paper's, or any of segmentation_models_pytorch by its name
            there, such as deeplabv3plus, unet, upernet or segformer, with "smp-" in front where names are equal.
        channels: Channels of Semantic FPN's pyramid, whose head has half of them, or of the heads of the other two.
        loss: Cross entropy, dice, or the sum of both.
        auxiliary_weight: Weight of the loss of a second head, which deeplabv3 and pspnet have.
        window: Height and width in pixels of the windows in which images are evaluated one after the other, their
            logits averaged where they overlap. Null: images are evaluated whole.
        window_stride: Pixels from one window to the next. Null: two thirds of the window.
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
        decoder: str = "semantic_fpn",
        channels: int = 256,
        loss: SegmentationLossKind = "cross_entropy",
        auxiliary_weight: float = 0.4,
        window: int | None = None,
        window_stride: int | None = None,
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
        self.decoder, self.channels, self.auxiliary_weight = decoder, channels, auxiliary_weight
        require(auxiliary_weight >= 0, "model.auxiliary_weight", auxiliary_weight, "0 or more")
        smallest = network.min_image_size
        require(window is None or window >= smallest, "model.window", window, f"{smallest} pixels or more, or null")
        most = window or 0
        require(
            window_stride is None or 0 < window_stride <= most,
            "model.window_stride",
            window_stride,
            f"from 1 to model.window = {window}, or null",
        )
        self.window, self.window_stride = window, window_stride or max(2 * most // 3, 1)
        backbone = MobileMamba(network)
        self.start = None if weights is None else Start(backbone, weights, weights_kind, image_size)
        self.started_from = weights
        self._frozen = freeze_part(backbone, freeze)
        backbone.set_grad_checkpointing(grad_checkpointing)
        match decoder:
            case "semantic_fpn":
                self.student = SemanticFPN(backbone, num_classes, channels, channels // 2)
            case "deeplabv3" | "pspnet":
                self.student = ContextDecoder(backbone, decoder, num_classes, channels)
            case _:
                self.student = SmpDecoder(backbone, decoder.removeprefix(OF_SMP), num_classes)
        self.set_metrics(lambda: SegmentationMetrics(num_classes, ignore_index))

    @property
    def num_classes(self) -> int:
        """Classes of a pixel."""
        return self.pixel_classes

    def head_description(self) -> dict[str, Any]:
        """Return what decides the decoder's weights."""
        width = {"channels": self.channels} if self.decoder in OWN_DECODERS else {}
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

    def outputs(self, network: nn.Module, images: Tensor) -> Any:
        """Return logits (B, num_classes, H, W), in training with those of a second head, in evaluation by windows."""
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
        total = parts.total
        for other in auxiliary:
            second = segmentation_loss(other, targets, self.loss, self.ignore_index).total
            total = total + self.auxiliary_weight * second
            self.log("train/loss_auxiliary", second.detach())
        self.log("train/loss", total.detach(), prog_bar=True)
        for name in ("cross_entropy", "dice"):
            part = getattr(parts, name)
            if part is not None:
                self.log(f"train/loss_{name}", part.detach())
        self.log("train/lr", max(group["lr"] for group in self.trainer.optimizers[0].param_groups))
        return total

    def predict_step(self, batch: tuple[Tensor, list[str]], batch_idx: int) -> dict[str, Any]:
        """Return "paths" and "classes", indices (B, H, W) in uint8 or int64, of (images, paths)."""
        images, paths = batch
        classes = self(images).argmax(dim=1)
        return {"paths": list(paths), "classes": classes.to(torch.uint8) if self.num_classes <= 256 else classes}
