"""Configs by name, files relative to them, and options that were mistyped."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_modules.configs import find_config, find_configs, resolve_files, shipped_configs
from lightning_modules.resolve import FitParser
from mobilemamba.errors import UserError
from tests.lightning_modules.conftest import Failure


def test_shipped_configs_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    s6 = str(shipped_configs()["s6"])
    for name in ("s6", "s6.yaml", "experiments/s6.yaml"):
        assert find_config(name) == s6
    assert find_configs(["fit", "--config", "s6", "--config=ablations/stages", "--run.name", "s6"]) == [
        "fit", "--config", s6, f"--config={shipped_configs()['ablations/stages']}", "--run.name", "s6"
    ]  # fmt: skip
    Path("s6.yaml").write_text("run: {name: mine}")
    assert find_config("s6.yaml") == "s6.yaml"  # a file that is there comes first
    with pytest.raises(UserError, match=r"--config quickstrat must be .* similar names are quickstart"):
        find_config("quickstrat")


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_quickstart_is_complete_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = FitParser().resolve(["--config", "quickstart"])
    assert "error" not in resolved
    assert Path(resolved["config"]["model"]["teacher"]["checkpoint"]).is_file()


def test_files_are_relative_to_the_config_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    config = yaml.safe_load("data: {init_args: {root: photos}, class_path: photos}\nmodel: {weights: published}")
    resolve_files(config, tmp_path)
    assert config["data"] == {"init_args": {"root": str(tmp_path / "photos")}, "class_path": "photos"}
    assert config["model"]["weights"] == "published"


@pytest.mark.parametrize(
    ("option", "meant"),
    [("--trainer.max_epoch=1", "--trainer.max_epochs"), ("--data.batchsize=1", "batch_size"), ("--x.y.z=1", None)],
)
def test_a_mistyped_option_names_the_nearest(
    option: str, meant: str | None, small_run: list[str], failure: Failure
) -> None:
    status, message = failure(["fit", *small_run, option])
    assert status == 2
    assert ("did you mean" in message) == (meant is not None)
    assert meant is None or f"; did you mean {meant}?" in message


def test_a_config_that_only_changes_data_needs_one_that_names_them(failure: Failure) -> None:
    status, message = failure(["fit", "--config", "finetune", "--model.weights", "null"])
    assert status == 1
    assert "error: data.class_path must name data, such as ImageNetDataModule" in message
    assert "Traceback" not in message
