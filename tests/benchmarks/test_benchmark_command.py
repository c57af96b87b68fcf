import json
import re
from pathlib import Path

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


@pytest.mark.usefixtures("candidates")
def test_latency_of_every_form_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, picture = tmp_path / "latency.json", tmp_path / "new" / "accuracy.png"
    files = ["--output", str(output), "--picture", str(picture)]
    assert main(["benchmark", "mobilemamba_t2", "--rounds", "1", "--repeats", "1", *files]) == 0
    assert "minimum / shvit_s3" in capsys.readouterr().out
    content = json.loads(output.read_text())
    assert content["settings"] == {
        "batch_sizes": [1],
        "warmup": 1,
        "rounds": 1,
        "repeats": 1,
        "autocast": False,
    }
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
def test_several_batch_sizes_at_another_image_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "latency.json"
    options = ["--forms", "eager", "--batch-sizes", "1", "3", "--image-size", "65", "96", "--warmup", "0"]
    assert (
        main(["benchmark", "mobilemamba_t2", *options, "--rounds", "2", "--repeats", "1", "--output", str(output)]) == 0
    )
    assert "batch 1, 3, float32" in capsys.readouterr().out
    results = json.loads(output.read_text())["results"]
    assert [(result["network"], result["batch_size"]) for result in results] == [
        ("mobilemamba_t2", 1),
        ("mobilemamba_t2", 3),
        ("shvit_s3", 1),
        ("shvit_s3", 3),
    ]
    assert all(result["image_size"] == [65, 96] and result["timing"]["calls"] == 2 for result in results)


@pytest.mark.usefixtures("candidates")
def test_mixed_precision_is_another_computation(tmp_path: Path) -> None:
    output = str(tmp_path / "latency.json")
    assert main(["benchmark", "--autocast", "--forms", "eager", "--rounds", "1", "--output", output]) == 0
    assert all(result["max_difference"] > 1e-6 for result in json.loads(Path(output).read_text())["results"])


@pytest.mark.usefixtures("candidates")
def test_training_step_beside_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "step.json"
    options = ["--training", "--batch-size", "2", "--rounds", "2", "--output", str(output)]
    assert main(["benchmark", "mobilemamba_t2", *options]) == 0
    assert "MB / shvit_s3" in capsys.readouterr().out
    ours, reference = json.loads(output.read_text())["results"]
    assert reference["memory_ratio"] == 1.0
    assert reference["batch_size"] == 2
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
