"""Which curves TensorBoard shows in one chart."""

from __future__ import annotations

import re

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.classification import ImageClassification
from lightning_modules.tensorboard import tensorboard_writer

Layout = dict[str, dict[str, list[str | list[str]]]]
"""What ``SummaryWriter.add_custom_scalars`` takes: charts by title, by category."""

DECAY_LENGTH_TAG = "scan/decay_length_median"
"""Beginning of the scalars of the ScanDecay callback, one per block."""


class ScalarLayout(Callback):
    """Group the run's curves in TensorBoard's tab Custom Scalars.

    Hooks: ``on_train_start``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout; TensorBoard keeps it with the run's log, and a resumed run has one of its own."""
        writer = tensorboard_writer(trainer)
        if writer is None:
            return
        distils = isinstance(pl_module, ImageClassification) and pl_module.teacher is not None
        writer.add_custom_scalars(scalar_layout(distils))


def scalar_layout(distils: bool) -> Layout:
    """Return the charts of a run.

    Args:
        distils: Whether the run has a teacher.
    """
    losses = ["train/loss", "train/loss_task"]
    teacher = {}
    if distils:
        losses.append("train/loss_distillation")
        teacher = {"agreement of student and teacher": _chart("train/teacher_agreement")}
    return {
        "Accuracy": {
            "top-1, raw and EMA weights": _chart("val/top1_raw", "val/top1_ema"),
            "top-5, raw and EMA weights": _chart("val/top5_raw", "val/top5_ema"),
            **teacher,
        },
        "Loss": {
            "training: total and parts": _chart(*losses),
            "validation, raw and EMA weights": _chart("val/loss_raw", "val/loss_ema"),
        },
        "Optimisation": {
            "learning rate": _chart("optim/lr"),
            "gradient norm before clipping": _chart("train/grad_norm"),
        },
        "Speed": {
            "images per second": _chart("speed/images_per_second"),
            "share of the time waiting for data": _chart("speed/data_wait"),
        },
        "Scan": {"median decay length per block, pixels": ["Multiline", [f"{DECAY_LENGTH_TAG}/.*"]]},
    }


def _chart(*tags: str) -> list[str | list[str]]:
    # TensorBoard takes expressions that match the beginning of a tag: train/loss would be train/loss_task too.
    return ["Multiline", [f"{re.escape(tag)}$" for tag in tags]]
