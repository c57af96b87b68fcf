"""Callbacks of training and prediction, one behaviour a file."""

from lightning_modules.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_modules.callbacks.ema import EMA
from lightning_modules.callbacks.export import ExportAtEnd
from lightning_modules.callbacks.interruption import SaveOnInterrupt
from lightning_modules.callbacks.non_finite import NonFiniteError, NonFiniteGuard
from lightning_modules.callbacks.predictions import PredictionsFile
from lightning_modules.callbacks.run_summary import RunSummary
from lightning_modules.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "BestCheckpoint",
    "ExportAtEnd",
    "LastCheckpoint",
    "NonFiniteError",
    "NonFiniteGuard",
    "PredictionsFile",
    "RunSummary",
    "SaveOnInterrupt",
    "Throughput",
]
