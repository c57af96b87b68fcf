import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import command
from benchmarks.networks import Candidate
from experiments.cli import main
from mobilemamba import MobileMamba, MobileMambaConfig


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small networks under the names of large ones."""

    def build(name: str, device: torch.device, image_size: tuple[int, int] | None) -> Candidate:
        torch.manual_seed(0)
        network: nn.Module = (
            MobileMamba(MobileMambaConfig(widths=(16, 16, 16), depths=(1, 1, 1), num_classes=5))
            if name == "mobilemamba_t2"
            else nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        )
        return Candidate(name, network.to(device).eval(), (3, *(image_size or (64, 64))))

    monkeypatch.setattr(command, "build", build)


def benchmark(output: Path, *options: str) -> dict[str, Any]:
    """Run the command and return its JSON."""
    assert main(["benchmark", "mobilemamba_t2", *options, "--repeats", "1", "--output", str(output)]) == 0
    content: dict[str, Any] = json.loads(output.read_text())
    return content


@pytest.mark.usefixtures("candidates")
def test_latency_of_every_form_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "accuracy.png"
    content = benchmark(tmp_path / "latency.json", "--rounds", "1", "--picture", str(picture))
    assert "minimum / shvit_s3" in capsys.readouterr().out
    assert content["settings"] == {"batch_sizes": [1], "warmup": 1, "rounds": 1, "repeats": 1, "autocast": False}
    assert content["environment"]["versions"]["torch"] == torch.__version__
    results = {(result["network"], result["form"]): result for result in content["results"]}
    names, forms = ("mobilemamba_t2", "shvit_s3"), ("eager", "fused", "onnx")
    assert results.keys() == {(name, form) for name in names for form in forms}
    for (name, _), result in results.items():
        assert result["max_difference"] < 1e-4
        assert result["timing"]["minimum"] > 0
        assert (name == "shvit_s3") == (result["ratio_of_minima"] == 1.0)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in picture.parent.iterdir()] == ["accuracy.png"]


@pytest.mark.usefixtures("candidates")
def test_several_batch_sizes_at_another_image_size_in_mixed_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--forms", "eager", "--batch-sizes", "1", "3", "--image-size", "65", "96", "--warmup", "0"]
    results = benchmark(tmp_path / "latency.json", *options, "--rounds", "2", "--autocast")["results"]
    assert "batch 1, 3, mixed precision" in capsys.readouterr().out
    names = ("mobilemamba_t2", "shvit_s3")
    assert [(one["network"], one["batch_size"]) for one in results] == [
        (name, size) for name in names for size in (1, 3)
    ]
    assert all(one["image_size"] == [65, 96] and one["timing"]["calls"] == 2 for one in results)
    assert all(one["max_difference"] > 1e-6 for one in results)  # another computation than in float32


@pytest.mark.usefixtures("candidates")
def test_training_step_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = benchmark(tmp_path / "step.json", "--training", "--batch-size", "2", "--rounds", "2")
    assert "MB / shvit_s3" in capsys.readouterr().out
    ours, reference = content["results"]
    assert (reference["memory_ratio"], reference["batch_size"]) == (1.0, 2)
    assert ours["memory_ratio"] > 1.0
    assert ours["timing"]["calls"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilemamba_s7"], "'mobilemamba_s7' is unknown to timm; near names: .*mobilemamba_s6"),
        (["--device", "nowhere"], "--device nowhere must be a device that works here"),
        (["--training", "--picture", "x.png"], "--picture shows latency"),
        (["--output", "/proc/latency.json"], "/proc cannot be written"),
        (["--image-size", "1", "2", "3"], r"--image-size = \[1, 2, 3\] must be one number or two"),
        (["--image-size", "32", "--forms", "eager"], "mobilemamba_s6 does not take images of 32x32 pixels: .* 64x64"),
    ],
)
def test_what_cannot_be_measured_is_said_before_it_begins(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", *arguments]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
