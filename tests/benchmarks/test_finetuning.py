"""Five digits are learned, then the other five in three ways."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from benchmarks.finetuning import METRIC, WAYS, Trial, as_table, finetuning
from lightning_modules.cli import main
from mobilemamba.errors import UserError


def run_here(command: list[str], **_: object) -> CompletedProcess[str]:
    """Call ``lightning`` in this process, in which all is imported."""
    main(command[command.index("fit") :])
    return CompletedProcess(command, 0)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_all_ways_run_once_and_give_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", run_here)
    options = {"images": [2], "seeds": 1, "first_epochs": 1, "steps": 1, "output": tmp_path / "runs"}
    trials = finetuning(**options)  # type: ignore[arg-type]
    assert [(trial.way, trial.images, trial.seed) for trial in trials] == [(way, 2, 0) for way in WAYS]
    content = json.loads((tmp_path / "runs" / "finetuning.json").read_text())
    assert (content["first_classes"], content["new_classes"]) == (list("01234"), list("56789"))
    assert (tmp_path / "runs" / "finetuning.png").stat().st_size > 5000
    monkeypatch.setattr("subprocess.run", None)  # finished runs are not run again
    assert finetuning(**options) == trials  # type: ignore[arg-type]


def test_the_table_has_means_and_spreads_in_percent() -> None:
    trials = [Trial(way, 20, seed, 0.5 + 0.01 * seed) for way in WAYS for seed in (0, 2)]
    assert "| fine-tuning      |        51.0 ± 1.4 |" in as_table(trials)
    assert METRIC == "val/top1_ema"


def test_data_of_too_few_classes_are_refused(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="--first-classes = 6 must leave two classes or more of 3"):
        finetuning(tmp_path, output=tmp_path / "runs")
    with pytest.raises(UserError, match="train is missing"):
        finetuning(tmp_path / "train", output=tmp_path / "runs")
