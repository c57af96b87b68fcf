"""Look at a network in training without changing it: nothing random is drawn, no statistic moves."""

from __future__ import annotations

import copy

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_modules.classification import ImageClassification


def copied_network(pl_module: LightningModule) -> nn.Module:
    """Return a copy in float32 and eval mode, of the averaged weights where there are any.

    A copy has modes, statistics, gradients and hooks of its own, and is not compiled.

    Raises:
        TypeError: When the module is no ImageClassification.
    """
    if not isinstance(pl_module, ImageClassification):
        raise TypeError(f"The module must be an ImageClassification, not a {type(pl_module).__name__}.")
    network = pl_module.student if pl_module.ema_student is None else pl_module.ema_student
    with torch.inference_mode(False):  # validation runs in inference mode, whose tensors can have no gradients
        return copy.deepcopy(network).float().eval().requires_grad_(False)


def validation_images(trainer: Trainer, count: int) -> Tensor | None:
    """Return validation images, spread evenly over the data set, so the same ones each time.

    They are read in this process and by index: a loader's iterator would draw a random seed and start workers.

    Args:
        trainer: A trainer with a datamodule whose validation data have a length.
        count: Images wanted; all are taken where there are fewer.

    Returns:
        Normalised images (B, C, H, W) on the CPU; None where there are no validation data or none can be read.
    """
    datamodule = getattr(trainer, "datamodule", None)
    loader = None if datamodule is None else datamodule.val_dataloader()
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return None
    count = min(count, len(dataset))
    with isolate_rng(), torch.inference_mode(False):
        samples = [dataset[index * len(dataset) // count] for index in range(count)]
    readable = [sample[0] for sample in samples if sample is not None]
    return torch.stack(readable) if readable else None
