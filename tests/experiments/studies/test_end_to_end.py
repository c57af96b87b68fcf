"""A real study: two small networks, resolved and trained by ``lightning fit``, killed, and taken up again."""

from __future__ import annotations

import json
import os
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli import main
from tests.spawned import QUICK

BASE: dict[str, Any] = {
    "data": {
        "class_path": "datamodules.DigitsDataModule",
        "init_args": {"batch_size": 32, "image_size": 32, "validation_share": 0.9},
    },
    # Without the scan, whose kernels would be compiled.
    "model": {"network": {"stem_stride": 4, "widths": [16, 32, 32], "depths": [1, 1, 1], "scan": False}},
    "enable": {"export": False, "best_checkpoint": False},
    "trainer": {"accelerator": "cpu", "limit_train_batches": 2, "limit_val_batches": 2, "log_every_n_steps": 1},
}
STUDY = """
base: {configs: [base.yaml]}
arms:
  whole: {description: all parts}
  without_local: {description: no local part, overrides: {"model.network.local_shares": [0, 0, 0]}}
seeds: [7]
budget: {epochs: 8}
"""

pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


def ablate(folder: Path, environment: dict[str, str], words: list[str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    sys.exit(main(words))


def test_a_killed_study_goes_on_from_its_checkpoints_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "tiny.yaml").write_text(STUDY)
    words = ["ablate", "tiny.yaml", "--devices", "cpu:1", "--set", "model.network.state_size=2"]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    study = get_context(QUICK).Process(target=ablate, args=(tmp_path, dict(os.environ), words))
    study.start()
    folder = Path("runs/studies/tiny")
    run = folder / "runs" / "whole" / "seed_7"
    deadline = time.monotonic() + 240
    while not (run / "checkpoints" / "last.ckpt").is_file() and study.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    study.terminate()
    study.join(60)
    study.kill()  # where it hangs
    study.join()
    assert study.exitcode == 130
    assert json.loads((run / "record.json").read_text())["epochs"] < 8
    assert main(words) == 0
    started = [line for line in (run / "fit.log").read_text().splitlines() if line.startswith("$ ")]
    assert ["--ckpt_path" in line for line in started] == [False, True]
    report = (folder / "report" / "report.md").read_text()
    printed = capsys.readouterr().out
    assert f"The whole report: {folder / 'report' / 'report.md'}" in printed
    assert next(line for line in report.splitlines() if line.startswith("| without_local")) in printed
    assert "2 of 2 runs have finished" in report
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["base"] == "whole"
    networks = {arm["name"]: arm["network"] for arm in plan["arms"]}
    assert networks["without_local"]["local_shares"] == [0, 0, 0] != networks["whole"]["local_shares"]
    assert all((network["state_size"], network["num_classes"]) == (2, 10) for network in networks.values())
    records = {}
    for arm, network in networks.items():
        run = folder / "runs" / arm / "seed_7"
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert (config["seed_everything"], config["data"]["init_args"]["seed"]) == (7, 7)
        assert config["model"]["network"]["local_shares"] == network["local_shares"]
        records[arm] = json.loads((run / "record.json").read_text())
        assert (records[arm]["finished"], records[arm]["epochs"], records[arm]["steps"]) == (True, 8, 16)
        assert len(records[arm]["curves"]["val/top1_ema"]) == 8
    assert records["whole"]["parameters"] > records["without_local"]["parameters"]
