"""Train the quickstart's teacher: timm's test_efficientnet on the handwritten digits, a minute on two cores.

Run from the project's root: ``python experiments/teachers/train_digits_teacher.py``. It writes
``experiments/teachers/digits_test_efficientnet.safetensors`` and prints the validation accuracy.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from datamodules import DigitsDataModule

EPOCHS = 40
PEAK_LEARNING_RATE = 3e-3
DESTINATION = Path(__file__).with_name("digits_test_efficientnet.safetensors")


class DigitsTeacher(LightningModule):
    """A timm network with AdamW and a one-cycle schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("test_efficientnet", num_classes=10)
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the cross entropy with soft targets."""
        images, targets = batch
        return F.cross_entropy(self.network(images), targets)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count hits."""
        images, targets = batch
        self.accuracy(self.network(images), targets)
        self.log("val/top1", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW and a schedule stepped every iteration."""
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK_LEARNING_RATE, int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Train, evaluate and save."""
    seed_everything(0)
    teacher = DigitsTeacher()
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        check_val_every_n_epoch=EPOCHS,
    )
    trainer.fit(teacher, datamodule=DigitsDataModule())
    temporary = DESTINATION.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in teacher.network.state_dict().items()}, temporary)
    temporary.replace(DESTINATION)
    print(f"{DESTINATION}: validation top-1 {trainer.callback_metrics['val/top1']:.4f}")


if __name__ == "__main__":
    main()
