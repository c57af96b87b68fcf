from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from benchmarks import tensorboard
from benchmarks.tensorboard import Fit, HookTimes
from lightning_modules import run_log
from lightning_modules.command_line import CALLBACKS, TENSORBOARD_CALLBACKS

CPU = torch.device("cpu")


class Timed(Callback):
    def on_train_start(self, *_: Any) -> None:
        pass


class Other(Callback):
    def on_train_start(self, *_: Any) -> None:
        pass


def test_hooks_of_measured_callbacks_are_timed_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = itertools.count()
    monkeypatch.setattr(tensorboard, "now", lambda _: np.array([1, 10]) * next(clock))
    callbacks = [Timed(), Other()]
    hooks = HookTimes({callbacks[0].state_key: "section"}, CPU)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        callbacks=callbacks,
        profiler=hooks,
        logger=False,
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(BoringModel())
    ticks = next(clock)
    assert ticks > 0
    assert hooks.inside["section"].tolist() == [ticks / 2, 5 * ticks]  # one tick at a hook's start, one at its end


def test_every_callback_of_tensorboard_is_measured() -> None:
    modules = {name: __import__(callback.__module__, fromlist=["_"]) for name, callback in CALLBACKS.items()}
    # What writes into the log has imported how.
    functions = {name for name in vars(run_log) if name.startswith("log_")} | {"tensorboard_writers"}
    writing = {name for name, module in modules.items() if functions & vars(module).keys()}
    assert TENSORBOARD_CALLBACKS.keys() == writing


def test_runs_take_turns_and_shares_are_of_those_that_took_the_processor_least(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {False: [(110, 100), (90, 105)], True: [(120, 104), (100, 110)]}
    order = []

    def run(arguments: list[str], enabled: bool, folder: str) -> tuple[Fit, torch.device]:
        assert arguments == ["--config", "some.yaml", "--a=b"]
        order.append(enabled)
        inside = {"scan_decay": np.array([1.2, 1.04])} if enabled else {}
        return Fit(np.array(times[enabled].pop(0)), inside, 7), CPU

    monkeypatch.setattr(tensorboard, "run", run)
    monkeypatch.setattr("sys.argv", ["x"])
    tensorboard.tensorboard(["some.yaml"], rounds=2, options=["a=b"], output=tmp_path / "x.json")
    assert order == [False, True, True, False]
    text = capsys.readouterr().out
    cells = {line.split("|")[1].strip(): line.split() for line in text.splitlines() if line.startswith("|")}
    shares = {name: [cell for cell in words if cell.endswith("%")] for name, words in cells.items()}
    assert shares["inside the callbacks"] == shares["... scan_decay"] == ["1.00%", "1.00%"]
    assert shares["difference"] == ["9.09%", "4.00%"]
    assert "7 optimiser steps" in text
    results = json.loads((tmp_path / "x.json").read_text())["results"]
    assert [one["with_callbacks"] for one in results] == [False, False, True, True]
    assert results[-1]["inside"] == {"scan_decay": {"wall": 1.2, "processor": 1.04}}
