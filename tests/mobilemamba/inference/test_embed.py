"""Features of images, and what neighbours say of classes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.cli import main
from mobilemamba.inference.embed import neighbour_accuracy


def test_features_and_paths_are_written_and_neighbours_evaluated(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "features.safetensors"
    options = ["--weights", str(checkpoint), "--output", str(output), "--neighbours", "2", "--batch-size", "4"]
    assert main(["embed", str(pictures), *options]) == 0
    features = load_file(output)["features"]
    assert features.shape == (9, 48)
    with output.with_suffix(".csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "class"]
    assert [Path(path).parent.name for path, _ in rows] == [name for _, name in rows]
    # Pictures of one colour are the same to the network, whatever their size.
    for first in range(0, 9, 3):
        torch.testing.assert_close(features[first], features[first + 1], rtol=1e-4, atol=1e-4)
    assert "100.00% of the images have the class" in capsys.readouterr().out


def test_neighbours_leave_the_image_itself_out() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.05]])
    assert neighbour_accuracy(features, ["a", "a", "b", "b", "b"], 1) == pytest.approx(0.4)
