"""Real runs that are ended by signals at any step: nothing is lost, repeated or left out."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

from lightning_modules.run_record import RunRecord
from tests.lightning_modules.faulty_runs import assert_same_training, fit, signal_at, write_config

LAST = Path("runs/mobilemamba/version_0/checkpoints/last.ckpt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the last checkpoint of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    ended = fit(folder, "--config", str(write_config(folder)))
    assert ended.returncode == 0, ended.stderr
    return folder / LAST


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_ended_by_a_signal_goes_on_to_the_same_end(number: int, status: int, whole: Path, tmp_path: Path) -> None:
    step = random.SystemRandom().randrange(12)
    ended = fit(tmp_path, "--config", str(write_config(tmp_path)), signal_at(step, number))
    assert ended.returncode == status, (step, ended.stderr)
    assert f"its state is kept in {LAST}" in ended.stdout
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == step + 1
    same = ["--config", str(tmp_path / "small.yaml"), "--run.resume=auto"]
    resumed = fit(tmp_path, *same, "--data.num_workers=0")
    assert resumed.returncode == 0, (step, resumed.stderr)
    assert_same_training(whole, tmp_path / LAST)
    assert [path.name for path in (tmp_path / LAST).parents[2].iterdir()] == ["version_0"]
    assert RunRecord.read((tmp_path / LAST).parents[1]).curves == RunRecord.read(whole.parents[1]).curves


@pytest.mark.parametrize("validations", [1.0, 0.5])
def test_a_signal_during_validation_waits_for_no_more_of_it(validations: float, whole: Path, tmp_path: Path) -> None:
    options = {"limit_val_batches": 3, "val_check_interval": validations}
    step = int(6 * validations)
    config = ["--config", str(write_config(tmp_path, **options))]
    ended = fit(tmp_path, *config, signal_at(step, signal.SIGTERM, validating=True))
    assert ended.returncode == 143, ended.stderr
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == step
    resumed = fit(tmp_path, *config, "--run.resume=auto")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_training(whole, tmp_path / LAST)


def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(tmp_path: Path) -> None:
    two = ["--config", str(write_config(tmp_path, devices=2, max_epochs=1)), "--data.num_workers=0"]
    ended = fit(tmp_path, *two, "--run.name=cut", signal_at(2, signal.SIGTERM, rank=1))
    assert ended.returncode == 143, ended.stderr
    cut, whole = (tmp_path / f"runs/{name}/version_0/checkpoints/last.ckpt" for name in ("cut", "whole"))
    assert torch.load(cut, weights_only=True)["global_step"] == 3
    resumed = fit(tmp_path, *two, "--ckpt_path", str(cut))
    assert resumed.returncode == 0, resumed.stderr
    assert fit(tmp_path, *two, "--run.name=whole").returncode == 0
    assert_same_training(whole, cut)
