"""Study folders made by hand, as `mobilemamba ablate` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilemamba import MobileMambaConfig
from mobilemamba.export.timing import Timing

NETWORK = asdict(MobileMambaConfig(widths=(16, 16, 16), depths=(1, 1, 1), num_classes=10))


def record(ema: float | None, raw: float | None, **changes: Any) -> dict[str, Any]:
    """Return a finished run's record, accuracies in [0, 1]."""
    metrics = {"val/top1_ema": ema, "val/top1_raw": raw}
    return {
        "finished": True,
        "epochs": 2,
        "steps": 88,
        "seconds": 90.0,
        "num_classes": 10,
        "parameters": 1,
        "device": "A CPU",
        "peak_memory_bytes": 500_000_000,
        "peak_memory_of": "process",
        "validation_images": None,
        "metrics": metrics,
        "curves": {"epoch": [0, 1], "train/loss": [2.0, 1.0]} | {name: [0.5, value] for name, value in metrics.items()},
    } | changes


def write_run(study: Path, arm: str, seed: int, content: Mapping[str, Any]) -> Path:
    folder = study / "runs" / arm / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "record.json").write_text(json.dumps(content))
    return folder


def make_study(folder: Path) -> Path:
    """Three arms with three seeds: the base, one without scan, and one without averaged weights that is not done."""
    arms = {
        "base": (NETWORK, {}),
        "no_scan": (NETWORK | {"scan": False}, {"model.network.scan": False}),
        "no_ema": (NETWORK, {"enable.ema": False, "model.teacher": None}),
    }
    plan = {
        "name": "parts",
        "base": "base",
        "seeds": [0, 1, 2],
        "arms": [
            {
                "name": name,
                "description": f"What {name} is for.",
                "group": "network",
                "overrides": overrides,
                "network": network,
                "image_size": [64, 64],
            }
            for name, (network, overrides) in arms.items()
        ],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    for seed, (base, no_scan) in enumerate([(0.90, 0.88), (0.92, 0.89), (0.91, 0.87)]):
        write_run(folder, "base", seed, record(base, base - 0.01, validation_images=360))
        taken = {"seconds": 30.0 + seed, "peak_memory_bytes": (510 - seed) * 1_000_000}
        write_run(folder, "no_scan", seed, record(no_scan, no_scan, **taken, validation_images=360))
    curves = {"epoch": [0, 1], "val/top1_raw": [0.5, 0.93], "train/loss": [2.0, None]}
    only_raw = record(None, 0.93, metrics={"val/top1_raw": 0.93}, curves=curves, validation_images=360)
    write_run(folder, "no_ema", 0, only_raw)
    failed = write_run(folder, "no_ema", 1, record(None, 0.5, finished=False))
    (failed / "failure.txt").write_text("error: disk\nis full\n")
    return folder


def made_up_times(calls: Mapping[str, Callable[[], torch.Tensor]], *_: object) -> dict[str, Timing]:
    """Return 10 ms for the first network, 20 ms for the next; each has ten classes."""
    assert all(call().shape[1] == 10 for call in calls.values())
    return {name: Timing(1.0, 10.0 * (index + 1), 1) for index, name in enumerate(calls)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path)


@pytest.fixture
def change_plan(study: Path) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Change the study's plan in place."""

    def change(edit: Callable[[dict[str, Any]], None]) -> None:
        plan = json.loads((study / "plan.json").read_text())
        edit(plan)
        (study / "plan.json").write_text(json.dumps(plan))

    return change
