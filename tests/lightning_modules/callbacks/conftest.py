"""Trainers that write a TensorBoard log."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from tests.lightning_modules.small_runs import logged_trainer


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., Trainer]:
    """Build trainers with a TensorBoard log in the test's folder."""
    return partial(logged_trainer, tmp_path)
