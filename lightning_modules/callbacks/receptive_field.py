"""The effective receptive field before and after training, side by side."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_modules.inspection import copied_network, validation_images
from lightning_modules.receptive_field.gradient import contribution_map
from lightning_modules.receptive_field.picture import draw
from lightning_modules.run_log import log_picture, takes_pictures
from mobilemamba.errors import UserError, require


class ReceptiveField(Callback):
    """Draw which pixels contribute to the middle of the last feature map (``val/receptive_field``).

    Hooks: ``on_train_start`` draws that of the untrained network, ``on_train_end`` both. The first one is saved in
    checkpoints, so that a resumed run can still show it. The method is that of ``mobilemamba erf``
    (:mod:`lightning_modules.receptive_field.gradient`).

    Args:
        images: Number of validation images to average over, the same ones both times.

    Raises:
        UserError: When images is less than 1.
    """

    def __init__(self, images: int = 4) -> None:
        allowed = "1 or more, or leave the callback out with enable.receptive_field = false"
        require(images > 0, "receptive_field.images", images, allowed)
        self.images = images
        self.maps: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Keep the first measurement over a resume."""
        return {"maps": self.maps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the first measurement."""
        self.maps = state_dict["maps"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw that of the untrained network, unless the run is resumed."""
        if trainer.global_step == 0:
            self._draw(trainer, pl_module, "before training")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw that of the trained network beside it."""
        self._draw(trainer, pl_module, f"after {trainer.global_step:,} steps")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, title: str) -> None:
        is_drawn = takes_pictures(trainer) and trainer.is_global_zero
        images = validation_images(trainer, self.images) if is_drawn else None
        if images is None:
            return
        try:
            # In single precision: checkpoints hold it.
            self.maps[title] = contribution_map(copied_network(pl_module), images).float()
        except UserError as error:
            rank_zero_warn(f"The receptive field {title} is not drawn: {error}")
            return
        maps = [contributions.double() for contributions in self.maps.values()]
        description = f"{len(images)} validation images, {images.shape[-2]} x {images.shape[-1]} pixels"
        log_picture(trainer, "val/receptive_field", draw(maps, list(self.maps), description))
