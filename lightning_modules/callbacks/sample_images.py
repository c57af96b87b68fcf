"""Draws the first training batch as the network sees it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.inspection import metadata_of
from lightning_modules.pictures.samples import draw_samples
from lightning_modules.run_log import log_picture, takes_pictures
from mobilemamba.errors import require


class SampleImages(Callback):
    """Draw images of the first training batch, augmented and mixed, with their labels' shares (``train/samples``).

    Hooks: ``on_train_batch_start`` of a run's first batch; a resumed run draws nothing.

    The labels' smoothing is ``mixing.label_smoothing`` of the data module, 0 where it has none.

    Args:
        count: Number of images.

    Raises:
        UserError: When count is less than 1.
    """

    def __init__(self, count: int = 16) -> None:
        allowed = "1 or more, or leave the callback out with enable.sample_images = false"
        require(count > 0, "sample_images.count", count, allowed)
        self.count = count

    def should_act(self, trainer: Trainer, batch_idx: int) -> bool:
        """Return whether this is the first batch of a run that is logged, on the first process."""
        is_first = trainer.global_step == 0 and trainer.current_epoch == 0 and batch_idx == 0
        return is_first and takes_pictures(trainer) and trainer.is_global_zero

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Draw the first batch; it has been mixed and is on the device."""
        if not self.should_act(trainer, batch_idx):
            return
        images, targets = batch[:2]
        shown = min(self.count, len(images))
        title = (
            f"{shown} of the {len(images)} images in the first training batch, as the network sees them\n"
            f"({images.shape[-2]} x {images.shape[-1]} pixels), with the classes' shares of their labels"
        )
        mixing = getattr(getattr(trainer, "datamodule", None), "mixing", None)
        smoothing = getattr(mixing, "label_smoothing", 0.0)
        figure = draw_samples(images[:shown], targets[:shown], metadata_of(pl_module), title, smoothing)
        log_picture(trainer, "train/samples", figure)
