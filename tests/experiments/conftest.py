"""Where and how the commands of the experiments are run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where the commands are meant to be run."""
    monkeypatch.chdir(ROOT)
    # Lightning warns of arguments given in both ways.
    monkeypatch.setattr(sys, "argv", ["lightning"])
