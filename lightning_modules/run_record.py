"""A run's results and costs, as the file ``record.json`` in its folder.

    {"finished": true, "epochs": 4, "steps": 176, "seconds": 61.2, "num_classes": 10, "validation_images": 360,
     "parameters": 123456, "device": "AMD EPYC", "peak_memory_bytes": 123, "peak_memory_of": "process",
     "metrics": {"val/top1_raw": 0.981, ...},
     "curves": {"epoch": [0, 1, 2, 3], "val/top1_raw": [...], "train/loss": [...]}}

The callback :class:`lightning_modules.callbacks.RunRecording` writes it; studies read it.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mobilemamba.errors import UserError
from mobilemamba.files import write_json

FILE_NAME = "record.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
"""The checkpoint to resume from, in a run's folder."""


@dataclass(frozen=True)
class RunRecord:
    """Results and costs of a run. Accuracies are in [0, 1], losses in nats per sample.

    Args:
        finished: Whether training was completed.
        epochs: Trained epochs.
        seconds: Wall time of fit, summed over resumes.
        num_classes: Outputs of the classifier.
        device: Model of the GPU or CPU.
        peak_memory_bytes: Largest memory in use.
        peak_memory_of: Whose memory: the process's, or CUDA's allocator's.
        metrics: Metrics of the last validation; None where a value was not finite.
        curves: One value per validation, including "epoch"; None where a value was not logged or not finite.
        steps: Optimiser steps.
        parameters: Number of the network's parameters.
        validation_images: Number of validation images; None if unknown.
    """

    finished: bool
    epochs: int
    seconds: float
    num_classes: int
    device: str
    peak_memory_bytes: int
    peak_memory_of: str
    metrics: dict[str, float | None]
    curves: dict[str, list[float | None]]
    steps: int
    parameters: int
    validation_images: int | None = None  # older records lack it

    def write(self, folder: Path) -> None:
        """Write the record into a run's folder, whole or not at all."""
        write_json(folder / FILE_NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> RunRecord | None:
        """Return the record in a run's folder, None before the run's first validation.

        Raises:
            UserError: When the file is damaged or from another version.
        """
        path = folder / FILE_NAME
        try:
            content: Any = dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
        known = {field.name: field.default for field in fields(cls)}
        lacking = ", ".join(name for name in known if name not in content and known[name] is MISSING)
        if lacking:
            raise UserError(
                f"{path} is of another version: it lacks {lacking}. Delete the run's folder and run it again."
            )
        return cls(**{name: content[name] for name in known if name in content})
