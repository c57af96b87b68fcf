import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.loading import WAYS, Cost, Way, _table, loading
from lightning_modules.function_options import run_command
from mobilemamba.errors import UserError

IS_COMPLETE = all(find_spec(name) for name in ("litdata", "moto", "boto3"))


@pytest.mark.skipif(not IS_COMPLETE, reason="needs LitData and moto")
def test_every_way_is_measured_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"images": 8, "batch_size": 4, "image_size": 32, "rounds": 1}
    loading(output=tmp_path / "loading.json", **sizes)
    results = json.loads((tmp_path / "loading.json").read_text())["results"]
    assert [one["way"] for one in results] == list(WAYS)
    assert all(one["milliseconds"] > one["on_device"] >= 0 for one in results)
    assert "this project, folders, 4 views of an image" in capsys.readouterr().out


def test_ratios_are_to_the_two_that_are_compared_with() -> None:
    costs = [Cost("earlier", 6.0, 0, 1), Cost("timm", 3.0, 0, 1), Cost("folder", 2.0, 0.5, 4)]
    cells = [cell.strip() for cell in _table(costs).splitlines()[-1].split("|")]
    assert cells[2:8] == ["2.00", "0.50", "500", "3.00", "1.50", "250"]
    alone: list[Way] = ["folder"]
    assert _table([cost for cost in costs if cost.way in alone]).splitlines()[-1].count(" - ") == 2


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--data = .* must be a folder with train/"):
        loading(tmp_path)


def test_a_batch_is_the_least(capsys: pytest.CaptureFixture[str]) -> None:
    commands = {"loading": ("benchmarks.loading:loading", "")}
    assert run_command("python -m benchmarks", commands, ["loading", "--images", "3"]) == 1
    assert "--images = 3 must be 64 or more" in capsys.readouterr().err
