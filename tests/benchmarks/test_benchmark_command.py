import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main


def benchmark(output: Path, *options: str) -> dict[str, Any]:
    """Run the command and return its JSON."""
    assert main(["benchmark", "mobilemamba_t2", *options, "--repeats", "1", "--output", str(output)]) == 0
    content: dict[str, Any] = json.loads(output.read_text())
    return content


@pytest.mark.usefixtures("tiny_networks")
def test_latency_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "new" / "accuracy.png"
    options = ["--forms", "eager", "fused", "--batch-sizes", "1", "3", "--image-size", "65", "96", "--warmup", "0"]
    options += ["--rounds", "2", "--autocast", "--picture", str(picture)]
    content = benchmark(tmp_path / "latency.json", *options)
    printed = capsys.readouterr().out
    assert "batch 1, 3, mixed precision" in printed
    assert "minimum / shvit_s3" in printed
    settings = {"batch_sizes": [1, 3], "warmup": 0, "rounds": 2, "repeats": 1, "autocast": True}
    assert content["settings"] == settings
    assert [(one["network"], one["batch_size"], one["form"]) for one in content["results"]] == [
        (name, size, form) for name in ("mobilemamba_t2", "shvit_s3") for size in (1, 3) for form in ("eager", "fused")
    ]
    for result in content["results"]:
        assert (result["image_size"], result["timing"]["calls"]) == ([65, 96], 2)
        assert result["max_difference"] > 1e-6  # another computation than in float32
        assert (result["network"] == "shvit_s3") == (result["ratio_of_minima"] == 1.0)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in picture.parent.iterdir()] == ["accuracy.png"]


@pytest.mark.usefixtures("tiny_networks")
def test_training_step_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = benchmark(tmp_path / "step.json", "--training", "--batch-size", "2", "--rounds", "2")
    assert "MB / shvit_s3" in capsys.readouterr().out
    ours, reference = content["results"]
    assert (reference["memory_ratio"], reference["batch_size"], reference["form"]) == (1.0, 2, "training")
    assert ours["memory_ratio"] > 1.0
    assert ours["timing"]["calls"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilemamba_s7"], "'mobilemamba_s7' is unknown to timm; similar names: .*mobilemamba_s6"),
        (["--device", "nowhere"], "--device = nowhere must be a device that works here"),
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
