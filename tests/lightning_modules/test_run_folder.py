"""One folder for a run, whatever logs it and however often it goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lightning.pytorch import Trainer

from lightning_modules.cli import main
from lightning_modules.run_folder import Run, held_alone, run_of_checkpoint
from mobilemamba.errors import UserError
from tests.lightning_modules.conftest import Failure


@pytest.mark.parametrize(("logger", "curves"), [("csv", "metrics.csv"), ("none", None)])
def test_everything_is_in_the_runs_folder(
    logger: str, curves: str | None, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "current folder"
    here.mkdir()
    monkeypatch.chdir(here)
    main(["fit", *small_run, f"--run.logger={logger}", "--enable.export=false"])
    assert not list(here.iterdir())
    [run] = (tmp_path / "all runs" / "small").iterdir()
    written = {path.name for path in run.iterdir()}
    assert {"checkpoints", "config.yaml", "record.json"} <= written
    assert curves is None or curves in written

    # Going on writes into the same folder.
    last = run / "checkpoints" / "last.ckpt"
    assert run_of_checkpoint(last) == Run("small", str(tmp_path / "all runs"), run.name)
    config = ["--config", str(run / "config.yaml"), "--ckpt_path", str(last)]
    main(["fit", *config, "--trainer.max_epochs=2"])
    assert list((tmp_path / "all runs" / "small").iterdir()) == [run]
    assert curves is None or {"metrics_0.csv", "metrics.csv"} <= {path.name for path in run.iterdir()}


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_missing_logger_is_one_line(logger: str, small_run: list[str], failure: Failure) -> None:
    status, message = failure(["fit", *small_run, f"--run.logger={logger}"])
    assert (status, message.count("\n")) == (1, 1)
    assert f"run.logger = '{logger}' needs a package that is not installed: pip install {logger}" in message


def test_a_checkpoint_elsewhere_is_of_no_run(tmp_path: Path) -> None:
    assert run_of_checkpoint(tmp_path / "checkpoints" / "last.ckpt") is None


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.run_folder.PATIENCE", 0.3)
    trainer = Trainer(accelerator="cpu", logger=False)
    with held_alone(tmp_path, trainer):
        expected = rf"is in use by process {os.getpid()} .* choose another run\.version or run\.name"
        with pytest.raises(UserError, match=expected), held_alone(tmp_path, trainer):
            pass
    left = tmp_path / "export" / ".last.onnx.abc.unfinished"
    left.mkdir(parents=True)
    (left / "last.onnx").touch()
    with held_alone(tmp_path, trainer):
        assert not left.exists()


def test_a_trial_holds_no_folder(tmp_path: Path) -> None:
    with held_alone(tmp_path / "run", Trainer(accelerator="cpu", logger=False, fast_dev_run=True)):
        assert not (tmp_path / "run").exists()
