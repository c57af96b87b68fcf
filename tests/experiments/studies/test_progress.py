"""What is told of a study while it runs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from experiments.studies import progress
from experiments.studies.progress import StudyProgress
from experiments.studies.runs import Run
from tests.experiments.studies.report.conftest import record


def test_the_time_left_is_that_of_the_runs_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    runs = [Run("a", seed, tmp_path / f"seed_{seed}", tmp_path / "a.yaml") for seed in range(6)]
    runs[2].folder.mkdir()
    (runs[2].folder / "record.json").write_text(json.dumps(record(None, None, finished=False, epochs=3)))
    screen = Console(file=io.StringIO(), force_terminal=True, width=200)
    with StudyProgress(total=6, capacity=2, console=screen) as shown:
        shown.skipped(runs[0])
        shown.started(runs[1], "CPU")
        shown.started(runs[2], "CPU")
        assert shown.time_left() == ""
        now = 100.0
        shown.finished(runs[1])
        # Four runs of 100 s are left, of one of which 100 s are gone, two at a time.
        assert shown.time_left() == "about 0:02:30 left"
        shown.refresh()
        now = 140.0
        shown.failed(runs[2], "it broke")
        assert shown.time_left() == "about 0:02:30 left"
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "[1/6] a, seed 0: skipped" in text
    assert "[2/6] a, seed 1: finished in 0:01:40" in text
    assert "[3/6] a, seed 2: FAILED AGAIN after 0:02:20: it broke" in text
    assert "a, seed 2, epoch 3" in text


def test_without_a_terminal_no_record_is_read(tmp_path: Path) -> None:
    run = Run("a", 0, tmp_path, tmp_path / "a.yaml")
    (tmp_path / "record.json").write_text("damaged")
    with StudyProgress(total=1, capacity=1, console=Console(file=io.StringIO())) as shown:
        shown.started(run, "CPU")
        shown.refresh()
