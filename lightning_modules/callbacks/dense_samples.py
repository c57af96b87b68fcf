"""Draws predictions of dense tasks beside the ground truth, in the run's log."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from datamodules.dense_transforms import IGNORED
from lightning_modules.callbacks.after_validations import AfterValidations
from lightning_modules.detection_metrics import at_original_size
from lightning_modules.inspection import metadata_of
from lightning_modules.pictures.found import SHOWN_SCORE, Found, draw_found, draw_pairs
from lightning_modules.pictures.samples import denormalised
from lightning_modules.run_log import log_picture
from mobilemamba.errors import require


class DenseSamples(AfterValidations):
    """Draw the first validation images with the ground truth and with predictions (``val/found``).

    Hooks: those of :class:`AfterValidations`; ``on_validation_batch_end`` keeps the images on the first process.

    Args:
        count: Number of images.
        every_n_validations: Number of validations between two drawings; the last one is always drawn.

    Raises:
        UserError: When either is less than 1.
    """

    def __init__(self, count: int = 8, every_n_validations: int = 5) -> None:
        super().__init__("dense_samples", every_n_validations)
        require(count > 0, "dense_samples.count", count, "1 or more, or leave the callback out by enable.dense_samples")
        self.count = count
        self._kept: list[tuple[Tensor, Found, Found]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._kept = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images with targets and predictions."""
        wanted = self.count - len(self._kept)
        if wanted > 0 and trainer.is_global_zero and self.counts(trainer):
            images, targets = batch
            rows = zip(images[:wanted].cpu(), targets[:wanted], outputs[:wanted], strict=True)
            self._kept += [(image, *truth_and_found(target, output)) for image, target, output in rows]

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw on the first process."""
        if not self._kept:
            return
        metadata = metadata_of(pl_module)
        pairs = []
        for image, truth, found in self._kept:
            colours = (denormalised(image, metadata) * 255).round().to(torch.uint8)
            names = metadata.class_names
            pairs.append((draw_found(colours, truth, names), draw_found(colours, found, names, SHOWN_SCORE)))
        title = f"The first {len(pairs)} validation images: ground truth and predictions"
        log_picture(trainer, "val/found", draw_pairs(pairs, title))


def truth_and_found(target: Any, output: Any) -> tuple[Found, Found]:
    """Return a target and a prediction, both in pixels of the batch, on the CPU.

    Args:
        target: Class indices (H, W); or "boxes", "labels" and maybe "masks" of objects in the original image, with its
            "size" and its size in the batch, "scaled".
        output: Logits (num_classes, H, W), or detections in the batch's image, with masks relative to their boxes.
    """
    if isinstance(target, Tensor):
        truth, classes = target.cpu(), output.argmax(0).cpu()
        return truth, torch.where(truth == IGNORED, IGNORED, classes)
    size, scaled = target["size"].tolist(), target["scaled"].tolist()
    ratios = [now / original for original, now in zip(size, scaled, strict=True)]
    objects = {
        "boxes": target["boxes"].cpu() * torch.tensor([ratios[1], ratios[0]] * 2),
        "labels": target["labels"].cpu(),
    }
    found = at_original_size(output, scaled, scaled)
    if "masks" in found:
        masks = target["masks"].cpu().to(torch.uint8)
        objects["masks"] = resize(masks, scaled, InterpolationMode.NEAREST_EXACT)
    return objects, found
