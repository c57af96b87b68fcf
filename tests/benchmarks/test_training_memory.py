import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import training_memory
from benchmarks.networks import Contender
from benchmarks.training_memory import saved_bytes


def test_saved_bytes_count_each_activation_once_and_no_parameter() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    images = torch.randn(5, 8)
    # Kept: the input, and the ReLU's output, which the second linear layer shares. Kept by sum: nothing.
    assert saved_bytes(network, lambda: network(images).sum().backward()) == 4 * (5 * 8 + 5 * 16)


def test_command_reports_memory_and_time_beside_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(name: str, device: torch.device) -> Contender:
        width = 8 if name == "wide" else 4
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 2))
        return Contender(name, network, (3, 2, 2))

    monkeypatch.setattr(training_memory, "build", build)
    output = tmp_path / "memory.json"
    training_memory.main(
        ["wide", "--reference", "narrow", "--batch-size", "4", "--rounds", "2", "--output", str(output)]
    )
    assert "MB / narrow" in capsys.readouterr().out
    wide, narrow = json.loads(output.read_text())["results"]
    assert narrow["memory_ratio"] == 1.0
    assert 1.0 < wide["memory_ratio"] < 2.0
    assert wide["timing"]["calls"] == 2
