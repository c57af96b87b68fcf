"""What the network costs, part by part, beside its curves."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.classification import ImageClassification
from lightning_modules.network_table import network_table
from lightning_modules.tensorboard import tensorboard_writer


class ComplexityTable(Callback):
    """Write parameters and MACs of each part of the network as a table into TensorBoard (``network/complexity``).

    Hooks: ``on_train_start``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table."""
        writer = tensorboard_writer(trainer)
        if writer is None or not isinstance(pl_module, ImageClassification) or pl_module.metadata is None:
            return
        height, width = pl_module.metadata.image_size
        text = network_table(pl_module.student, (height, width))
        heading = f"For one image of {height} x {width} pixels, classifier included."
        writer.add_text("network/complexity", f"{heading}\n\n{text}", trainer.global_step)
