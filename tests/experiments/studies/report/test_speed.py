from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.studies.report import speed
from experiments.studies.report.results import read_results
from experiments.studies.report.speed import SpeedSettings, measure_speeds, read_speeds
from mobilemamba import environment
from mobilemamba.export.timing import Timing
from tests.experiments.studies.report.conftest import made_up_times


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Times made up; the number of networks in each measurement."""
    measured: list[int] = []

    def interleaved(calls: Mapping[str, Callable[[], torch.Tensor]], *rest: object) -> dict[str, Timing]:
        measured.append(len(calls))
        return made_up_times(calls, *rest)

    monkeypatch.setattr(speed, "interleaved", interleaved)
    return measured


def test_speed_is_measured_anew_only_where_something_changed(
    study: Path, timed: list[int], change_plan: Callable[[Callable[[dict[str, Any]], None]], None]
) -> None:
    arms = read_results(study).arms
    measure_speeds(study, arms, SpeedSettings(batch_size=2))
    measure_speeds(study, arms, SpeedSettings(batch_size=2))
    assert timed == [2, 2]  # two arms share their network; in batches and alone
    ((device, speeds),) = read_speeds(study, arms).items()
    assert speeds["images_per_second"].to_dict() == {"base": 200.0, "no_scan": 100.0, "no_ema": 200.0}
    assert speeds["latency_milliseconds"].to_dict() == {"base": 10.0, "no_scan": 20.0, "no_ema": 10.0}
    assert device.endswith("throughput in batches of 2")
    measure_speeds(study, arms, SpeedSettings(batch_size=2, anew=True))
    assert len(timed) == 4
    measure_speeds(study, arms, SpeedSettings(batch_size=4))
    assert len(timed) == 6
    change_plan(lambda plan: plan["arms"][1]["network"].update(state_size=2))
    arms = read_results(study).arms
    (speeds,) = read_speeds(study, arms).values()
    assert set(speeds.index) == {"base", "no_ema"}  # what was measured of the third is another network's
    measure_speeds(study, arms, SpeedSettings(batch_size=4))
    assert len(timed) == 8
    (speeds,) = read_speeds(study, arms).values()
    assert set(speeds.index) == {"base", "no_scan", "no_ema"}


def test_several_devices_add_up(study: Path, timed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    arms = read_results(study).arms
    measure_speeds(study, arms, SpeedSettings(batch_size=2))
    monkeypatch.setattr(environment, "device_name", lambda device: "Another (R) CPU")
    measure_speeds(study, arms, SpeedSettings(batch_size=2))
    assert (study / f"speed_another_r_cpu_{torch.get_num_threads()}_threads.json").is_file()
    measure_speeds(study, arms, SpeedSettings(batch_size=2, autocast=True))
    devices = set(read_speeds(study, arms))
    here = {device for device in devices if not device.startswith("Another (R) CPU, ")}
    single, mixed = sorted(devices - here)  # whatever this processor is called
    assert len(here) == 1
    assert "float32" in single
    assert mixed == single.replace("float32", "mixed precision")


def test_speed_is_really_measured(study: Path) -> None:
    arms = read_results(study).arms
    measure_speeds(study, arms, SpeedSettings(batch_size=2, rounds=1, autocast=True))
    (path,) = study.glob("speed_*.json")
    content = json.loads(path.read_text())
    assert all(figures["throughput"] > 0 < figures["latency"] for figures in content["speeds"].values())
    assert content["environment"]["versions"]["torch"] == torch.__version__
