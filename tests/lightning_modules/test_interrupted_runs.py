"""Real runs that are ended by signals at any step: nothing is lost, repeated or left out."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

from benchmarks import faulty_runs
from benchmarks.faulty_runs import LAST, different_parts, fault_option, steps_begun, write_config
from lightning_modules.run_record import RunRecord
from tests.spawned import fit


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the last checkpoint of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    status, output = fit(folder, "--config", str(write_config(folder)), "--data.num_workers=0")
    assert status == 0, output
    return folder / LAST


def test_a_run_ended_by_signals_goes_on_to_the_same_end(whole: Path, tmp_path: Path) -> None:
    # After the last step of an epoch its validation is left out, and missing in the curves.
    steps = sorted(random.SystemRandom().sample([0, 1, 2, 3, 4, 6, 7, 8, 9, 10], 2))
    options = ["--config", str(write_config(tmp_path)), "--run.resume=auto"]
    signals = random.SystemRandom().sample(["SIGTERM", "SIGINT"], 2)
    for step, name, workers in zip(steps, signals, (2, 0), strict=True):
        signalled = [fault_option(step=step, kind=name), f"--data.num_workers={workers}"]
        status, output = fit(tmp_path, *options, *signalled)
        assert status == 128 + getattr(signal, name), (steps, signals, output)
        assert f"its state is saved in {LAST}" in output
        assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == step + 1
    status, output = fit(tmp_path, *options, fault_option(), "--data.num_workers=0")
    assert status == 0, (steps, signals, output)
    assert not different_parts(whole, tmp_path / LAST)
    assert steps_begun(tmp_path) == 12
    assert [path.name for path in (tmp_path / LAST).parents[2].iterdir()] == ["version_0"]
    assert RunRecord.read((tmp_path / LAST).parents[1]).curves == RunRecord.read(whole.parents[1]).curves


@pytest.mark.parametrize("validations", [1.0, 0.5])
def test_a_signal_during_validation_waits_for_no_more_of_it(validations: float, whole: Path, tmp_path: Path) -> None:
    step = int(6 * validations)
    config = write_config(tmp_path, limit_val_batches=3, val_check_interval=validations)
    options = ["--config", str(config), "--run.resume=auto", "--data.num_workers=0"]
    status, output = fit(tmp_path, *options, fault_option(step=step, kind="SIGTERM", validating=True))
    assert status == 143, output
    assert torch.load(tmp_path / LAST, weights_only=True)["global_step"] == step
    status, output = fit(tmp_path, *options)
    assert status == 0, output
    assert not different_parts(whole, tmp_path / LAST)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_at_one_step(tmp_path: Path) -> None:
    two = ["--config", str(write_config(tmp_path, devices=2, max_epochs=1)), "--data.num_workers=0"]
    # The command itself starts the second process.
    status, output = faulty_runs.fit(tmp_path, *two, "--run.name=cut", fault_option(step=2, kind="SIGTERM", rank=1))
    assert status == 143, output
    cut, whole = (tmp_path / f"runs/{name}/version_0/checkpoints/last.ckpt" for name in ("cut", "whole"))
    assert torch.load(cut, weights_only=True)["global_step"] == 3
    for options in (["--ckpt_path", str(cut)], ["--run.name=whole"]):
        status, output = fit(tmp_path, *two, *options, processes=2)
        assert status == 0, output
    assert not different_parts(whole, cut)
