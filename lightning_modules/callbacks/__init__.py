"""Callbacks of training and prediction, one behaviour per file."""

from lightning_modules.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from lightning_modules.callbacks.class_results import ClassResults
from lightning_modules.callbacks.dense_predictions import DensePredictions
from lightning_modules.callbacks.dense_samples import DenseSamples
from lightning_modules.callbacks.ema import EMA
from lightning_modules.callbacks.export import ExportAtEnd
from lightning_modules.callbacks.hyperparameters import Hyperparameters
from lightning_modules.callbacks.interruption import SaveOnInterrupt
from lightning_modules.callbacks.non_finite import NonFiniteError, NonFiniteGuard
from lightning_modules.callbacks.part_norms import PartNorms
from lightning_modules.callbacks.predictions import PredictionsFile
from lightning_modules.callbacks.progress_bar import ShortProgressBar
from lightning_modules.callbacks.receptive_field import ReceptiveField
from lightning_modules.callbacks.run_recording import RunRecording
from lightning_modules.callbacks.run_summary import RunSummary
from lightning_modules.callbacks.run_texts import ComplexityTable, ConfigText, ScalarLayout
from lightning_modules.callbacks.sample_images import SampleImages
from lightning_modules.callbacks.scan_decay import ScanDecays
from lightning_modules.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "BestCheckpoint",
    "ClassResults",
    "ComplexityTable",
    "ConfigText",
    "DensePredictions",
    "DenseSamples",
    "ExportAtEnd",
    "Hyperparameters",
    "LastCheckpoint",
    "NonFiniteError",
    "NonFiniteGuard",
    "PartNorms",
    "PredictionsFile",
    "ReceptiveField",
    "RunRecording",
    "RunSummary",
    "SampleImages",
    "SaveOnInterrupt",
    "ScalarLayout",
    "ScanDecays",
    "ShortProgressBar",
    "Throughput",
]
