"""How far the scan of each block remembers, over the run."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from lightning_modules.callbacks.after_validations import AfterValidations
from lightning_modules.callbacks.scalar_layout import DECAY_LENGTH_TAG
from lightning_modules.inspection import copied_network, validation_images
from lightning_modules.pictures.decay import draw_decays
from lightning_modules.scan_memory import ScanDecay, scan_decays
from lightning_modules.tensorboard import add_histogram, tensorboard_writer
from mobilemamba.errors import UserError


class ScanDecays(AfterValidations):
    """Write histograms of step sizes and decay lengths of each block, of the averaged weights where there are any.

    Hooks: those of :class:`AfterValidations`. Written are ``scan_step_size/BLOCK`` and, as the logarithm to base 10 of
    feature map pixels, ``scan_decay_length_log10/BLOCK``; the scalar ``scan/decay_length_median/BLOCK`` in pixels; and
    a picture of all blocks, ``scan/decay_length``. Networks without scan write nothing.

    Args:
        every_n_validations: Validations from one measurement to the next; the last one is always measured.
        images: Validation images to measure on, the same ones each time.

    Raises:
        UserError: When an option is less than 1.
    """

    def __init__(self, every_n_validations: int = 20, images: int = 8) -> None:
        super().__init__("scan_decay", every_n_validations)
        if images < 1:
            raise UserError(f"scan_decay.images = {images} must be 1 or more.")
        self.images = images
        self._batch: Tensor | None = None

    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and write, on the first process."""
        writer = tensorboard_writer(trainer)
        if writer is None:
            return
        if self._batch is None:
            self._batch = validation_images(trainer, self.images)
        if self._batch is not None:
            decays = scan_decays(copied_network(pl_module), self._batch.to(pl_module.device))
            write_decays(writer, decays, trainer.global_step)


def write_decays(writer: SummaryWriter, decays: dict[str, ScanDecay], step: int) -> None:
    """Write what was measured of every block.

    Args:
        writer: Of a TensorBoard log.
        decays: By block.
        step: Optimiser steps.
    """
    for block, decay in decays.items():
        add_histogram(writer, f"scan_step_size/{block}", decay.step_sizes, step)
        add_histogram(writer, f"scan_decay_length_log10/{block}", decay.decay_lengths.log10(), step)
        writer.add_scalar(f"{DECAY_LENGTH_TAG}/{block}", decay.decay_lengths.median().item(), step)
    if decays:
        writer.add_figure("scan/decay_length", draw_decays(decays), step)
