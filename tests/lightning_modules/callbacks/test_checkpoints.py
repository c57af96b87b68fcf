"""The last checkpoint follows training, whatever is validated, and no step is saved twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from lightning_modules.callbacks import LastCheckpoint
from lightning_modules.classification import ImageClassification
from mobilemamba import MobileMambaConfig
from mobilemamba.errors import UserError
from tests.lightning_modules.tiny_data import TinyData


class Listed(LastCheckpoint):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.steps: list[int] = []

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(
    ("saving", "training", "steps"),
    [
        ({}, {"check_val_every_n_epoch": 5}, [3, 6]),
        ({"every_n_epochs": 3}, {"check_val_every_n_epoch": 3}, [6]),  # at the end of fit alone
        ({}, {"max_steps": 5}, [3, 5]),
        ({"every_minutes": 0}, {}, [1, 2, 3, 4, 5, 6]),
        ({"every_minutes": 0}, {"val_check_interval": 1}, [1, 2, 3, 4, 5, 6]),
        ({"every_minutes": 0}, {"accumulate_grad_batches": 2}, [1, 2, 3, 4]),
        ({"every_minutes": 0}, {"limit_val_batches": 0}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_it_is_saved_by_progress(
    saving: dict[str, Any],
    training: dict[str, Any],
    steps: list[int],
    make_trainer: Callable[..., Trainer],
    tiny: MobileMambaConfig,
    tmp_path: Path,
) -> None:
    last = Listed(dirpath=str(tmp_path), **saving)
    trainer = make_trainer(callbacks=[last], enable_checkpointing=True, **({"max_epochs": 2} | training))
    trainer.fit(ImageClassification(tiny), datamodule=TinyData())
    assert last.steps == steps
    before = [torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("last.previous.ckpt")]
    assert before == steps[-2:-1]


@pytest.mark.parametrize("options", [{"every_minutes": -1}, {"every_n_epochs": 0}])
def test_impossible_intervals_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=rf"last_checkpoint\.{next(iter(options))} = "):
        LastCheckpoint(**options)
