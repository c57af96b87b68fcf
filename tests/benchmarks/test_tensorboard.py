from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks import tensorboard
from benchmarks.tensorboard import Fit, Seconds, measure_hooks, report
from lightning_modules import run_log
from lightning_modules.command_line import CALLBACKS, TENSORBOARD_CALLBACKS

CPU = torch.device("cpu")


class Timed(Callback):
    def on_train_start(self, *_: Any) -> None:
        pass

    def other(self) -> None:
        pass


def test_hooks_are_timed_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(tensorboard, "now", lambda _: Seconds((tick := next(clock)), 10 * tick))
    callback, sums = Timed(), {}
    measure_hooks(callback, sums, "section", CPU)
    callback.other()
    assert sums == {"section": Seconds(0, 0)}
    for _ in range(2):
        callback.on_train_start()
    assert sums == {"section": Seconds(2, 20)}
    assert next(clock) == 4


def test_every_callback_of_tensorboard_is_measured() -> None:
    modules = {name: __import__(callback.__module__, fromlist=["_"]) for name, callback in CALLBACKS.items()}
    # What writes into the log has imported how.
    functions = {name for name in vars(run_log) if name.startswith("log_")} | {"tensorboard_writers"}
    writing = {name for name, module in modules.items() if functions & vars(module).keys()}
    assert TENSORBOARD_CALLBACKS.keys() == writing


def test_shares_are_of_the_run_that_took_the_processor_least() -> None:
    off = [Fit(Seconds(110, 100)), Fit(Seconds(90, 105))]
    on = [Fit(Seconds(120, 104), {"scan_decay": Seconds(1.2, 1.04)}, 7), Fit(Seconds(100, 110), {}, 7)]
    text, content = report(off, on)
    names = ("share_inside", "share_inside_processor", "share_of_difference", "share_of_difference_processor")
    assert [content[name] for name in names] == pytest.approx([0.01, 0.01, 10 / 110, 0.04])
    assert "7 optimiser steps" in text
    assert "1.00%" in text


def test_figures_are_of_runs_with_and_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []

    def run(arguments: list[str], enabled: bool, folder: str) -> tuple[Fit, torch.device]:
        assert arguments == ["--config", "some.yaml"]
        order.append(enabled)
        return Fit(Seconds(2, 2), {"scan_decay": Seconds(1, 1)} if enabled else {}, 3), CPU

    monkeypatch.setattr(tensorboard, "run", run)
    monkeypatch.setattr("sys.argv", ["x"])
    tensorboard.tensorboard(["some.yaml"], rounds=2, output=tmp_path / "x.json")
    assert order == [False, True, True, False]
    assert "scan_decay" in capsys.readouterr().out
    assert (tmp_path / "x.json").is_file()
