"""Writes pictures, texts and histograms into a run's log, whatever its loggers.

Each function writes on the first process, at the trainer's step; without a suitable logger it does nothing. Pictures go
to TensorBoard, Weights & Biases and MLflow, texts and histograms only to TensorBoard.
"""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

BINS = 64
"""Number of histogram bins; TensorBoard shows 30."""


def takes_pictures(trainer: Trainer) -> bool:
    """Return whether the run has a logger for pictures; the same on all processes."""
    return any(isinstance(logger, (TensorBoardLogger, WandbLogger, MLFlowLogger)) for logger in trainer.loggers)


def tensorboard_writers(trainer: Trainer) -> list[SummaryWriter]:
    """Return the writers of the run's TensorBoard logs on the first process; none on others."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def log_picture(trainer: Trainer, tag: str, figure: Figure) -> None:
    """Log a picture to every logger that takes pictures."""
    for writer in tensorboard_writers(trainer):
        writer.add_figure(tag, figure, trainer.global_step)
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(tag, [as_image(figure)], step=trainer.global_step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, as_image(figure), key=tag, step=trainer.global_step)


def as_image(figure: Figure) -> Image.Image:
    """Return a figure as an RGB image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def log_text(trainer: Trainer, tag: str, markdown: str) -> None:
    """Log a text."""
    for writer in tensorboard_writers(trainer):
        writer.add_text(tag, markdown, trainer.global_step)


def log_histogram(trainer: Trainer, tag: str, values: Tensor) -> None:
    """Log a histogram of float32 values of any shape, without those that are not finite.

    They are counted on their device and summed on the CPU, since Apple's GPUs have no float64.
    """
    values = values.detach()[values.isfinite()]
    writers = tensorboard_writers(trainer)
    if not writers or not len(values):
        return
    low, high = (edge.item() for edge in values.aminmax())
    high = max(high, low + 1e-6 * max(1.0, abs(low)))  # equal values need a bin too
    exact = values.cpu().double()
    for writer in writers:
        writer.add_histogram_raw(
            tag,
            min=low,
            max=high,
            num=len(values),
            sum=exact.sum().item(),
            sum_squares=exact.square().sum().item(),
            bucket_limits=torch.linspace(low, high, BINS + 1)[1:].tolist(),
            bucket_counts=torch.histc(values, BINS, low, high).tolist(),
            global_step=trainer.global_step,
        )
