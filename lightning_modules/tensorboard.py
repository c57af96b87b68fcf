"""What the callbacks share that write more than scalars into a run's TensorBoard log."""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

BINS = 64
"""Of a histogram; TensorBoard shows 30."""


def tensorboard_writer(trainer: Trainer) -> SummaryWriter | None:
    """Return the writer of the run's log on the first process; None on others, and in runs without TensorBoard."""
    logger = next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
    return logger.experiment if logger is not None and trainer.is_global_zero else None


def has_tensorboard(trainer: Trainer) -> bool:
    """Return whether the run has a TensorBoard log; the same on all processes."""
    return any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers)


def add_histogram(writer: SummaryWriter, tag: str, values: Tensor, step: int) -> None:
    """Log how values are distributed: counted on their device, summed on the CPU, without those that are not finite.

    Args:
        writer: Of the run's log.
        tag: Name of the histogram.
        values: Of any shape, in float32.
        step: Optimiser steps.
    """
    values = values.detach()[values.isfinite()]
    if not len(values):
        return
    low, high = (edge.item() for edge in values.aminmax())
    high = max(high, low + 1e-6 * max(1.0, abs(low)))  # equal values have a bin too
    exact = values.cpu().double()  # Apple's GPUs have no float64
    writer.add_histogram_raw(
        tag,
        min=low,
        max=high,
        num=len(values),
        sum=exact.sum().item(),
        sum_squares=exact.square().sum().item(),
        bucket_limits=torch.linspace(low, high, BINS + 1)[1:].tolist(),
        bucket_counts=torch.histc(values, BINS, low, high).tolist(),
        global_step=step,
    )


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.replace("|", r"\|").replace("\n", " ")
