"""A small network and a small, learnable data set that every test of this folder can train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from mobilemamba import MobileMambaConfig
from tests.lightning_modules.tiny_data import TinyData

TINY = MobileMambaConfig(num_classes=4, widths=(16, 32, 32), depths=(1, 1, 1))


@pytest.fixture
def tiny() -> MobileMambaConfig:
    return TINY


@pytest.fixture
def tiny_data() -> TinyData:
    return TinyData()


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Build quiet one-process trainers whose files go to the test's folder."""

    def make(**options: Any) -> Trainer:
        quiet: dict[str, Any] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "default_root_dir": tmp_path,
        }
        return Trainer(**(quiet | options))

    return make
