"""Logs the decay lengths of each block's scan: over how many pixels its state decays."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_modules.callbacks.after_validations import AfterValidations
from lightning_modules.inspection import copied_network, validation_images
from lightning_modules.pictures.decay import draw_decays
from lightning_modules.run_log import log_histogram, log_picture
from lightning_modules.scan_memory import scan_decays
from mobilemamba.errors import require

DECAY_LENGTH_TAG = "val_scan/decay_length_median"
"""Beginning of the scalars' names, one per block."""


class ScanDecays(AfterValidations):
    """Write histograms of step sizes and decay lengths of each block, for the averaged weights if there are any.

    Hooks: those of :class:`AfterValidations`. It writes ``val_scan_step_size/BLOCK`` and, as the logarithm to base 10
    of feature map pixels, ``val_scan_decay_length_log10/BLOCK``; the scalar ``val_scan/decay_length_median/BLOCK`` in
    pixels; and a picture of all blocks, ``val_scan/decay_length``. Networks without a scan write nothing.

    Args:
        every_n_validations: Number of validations between two measurements; the last one is always measured.
        images: Number of validation images to measure on, the same ones each time.

    Raises:
        UserError: When an option is less than 1.
    """

    def __init__(self, every_n_validations: int = 20, images: int = 8) -> None:
        super().__init__("scan_decay", every_n_validations)
        require(images > 0, "scan_decay.images", images, "1 or more")
        self.images = images
        self._batch: Tensor | None = None

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and write, on the first process."""
        if not trainer.is_global_zero:
            return
        if self._batch is None:
            self._batch = validation_images(trainer, self.images)
        if self._batch is None:
            return
        decays = scan_decays(copied_network(pl_module), self._batch.to(pl_module.device))
        medians = {}
        for block, decay in decays.items():
            log_histogram(trainer, f"val_scan_step_size/{block}", decay.step_sizes)
            log_histogram(trainer, f"val_scan_decay_length_log10/{block}", decay.decay_lengths.log10())
            medians[f"{DECAY_LENGTH_TAG}/{block}"] = decay.decay_lengths.median().item()
        if decays:
            log_picture(trainer, "val_scan/decay_length", draw_decays(decays))
            for logger in trainer.loggers:
                logger.log_metrics(medians, trainer.global_step)
