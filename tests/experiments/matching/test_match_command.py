from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn

from experiments.cli import main
from experiments.matching import cost
from experiments.matching.layouts import NAMES, find_layout
from mobilemamba import MobileMamba, MobileMambaConfig

TINY = """
# A layout of two stages.
run: {name: tiny, folder: runs/tiny}
model:
  network: {stem_stride: 4, widths: [16, 24], depths: [1, 1], mixer_stages: [false, true], global_shares: [0, 0.7],
    local_shares: [0, 0.3], local_kernels: [[3], [3]], wavelet_kernels: [3, 3]}
callbacks: [{class_path: some.Callback}]
"""


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network under the name of a large one."""

    def create(name: str) -> nn.Module:
        network = MobileMamba(MobileMambaConfig(widths=(32, 32, 48), depths=(1, 1, 1), num_classes=5))
        network.pretrained_cfg = {"input_size": (3, 64, 64)}
        return network

    monkeypatch.setattr(timm, "create_model", create)


@pytest.fixture
def scripted_times(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Times that are the parameters of a network, in milliseconds, and the batch sizes that were asked for."""
    batches: list[int] = []

    def call(network: nn.Module, images: torch.Tensor, autocast: bool) -> Callable[[], float]:
        batches.append(len(images))
        assert images.shape[1:] == (3, 64, 96)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
        return lambda: sum(parameter.numel() for parameter in network.parameters()) / 1e3

    def timed(calls: dict[str, Callable[[], float]], rounds: int, repeats: int, device: torch.device) -> Any:
        return {name: [call()] * rounds * repeats for name, call in calls.items()}

    monkeypatch.setattr(cost, "inference_call", call)
    monkeypatch.setattr(cost, "interleaved_seconds", timed)
    return batches


@pytest.mark.usefixtures("reference")
def test_throughput_is_matched_and_the_arm_written(
    layout: Path, scripted_times: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--layout", str(layout), "--image-size", "64", "96", "--batch-size", "3", "--output", "new/arm.yaml"]
    assert main(["match", "--reference", "mobilemamba_s6", *options]) == 0
    printed = capsys.readouterr()
    text = Path("new/arm.yaml").read_text()
    config = yaml.safe_load(text)
    assert set(scripted_times) == {3}
    # What the file had stays, but for widths and name.
    before = yaml.safe_load(TINY)
    widths = config["model"]["network"]["widths"]
    assert config["run"] == {"name": "arm", "folder": "runs/tiny"}
    assert config["callbacks"] == before["callbacks"]
    assert config["model"]["network"] == before["model"]["network"] | {"widths": widths}
    assert all(width % 8 == 0 for width in widths)
    network = MobileMamba(MobileMambaConfig(**config["model"]["network"], num_classes=5))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert f"{parameters:,} parameters" in text
    assert "# Command:   lightning fit --config new/arm.yaml --data.root" in text
    assert "times the throughput of mobilemamba_s6 (" in text
    assert f"torch {torch.__version__}, timm" in text
    assert "standard error of the ratio 0.0%" in text
    assert f"--layout {layout} --metric throughput" in text.split("Found by:")[1].replace("\n# ", " ")
    assert max(map(len, text.splitlines())) <= 120
    assert "\n    local_kernels: [[3], [3]]\n" in text  # lists of values in one line
    assert f"Widths {widths[0]}, {widths[1]}" in printed.out
    assert "measured again" in printed.err
    assert os.listdir("new") == ["arm.yaml"]


@pytest.mark.usefixtures("reference")
def test_latency_is_of_single_images(layout: Path, scripted_times: list[int]) -> None:
    options = ["--layout", str(layout), "--metric", "latency", "--image-size", "64", "96"]
    assert main(["match", "--reference", "mobilemamba_s6", *options]) == 0
    assert set(scripted_times) == {1}
    text = Path("runs/tiny_as_mobilemamba_s6.yaml").read_text()
    assert "times the latency of mobilemamba_s6 (" in text
    assert " ms): latency on " in text.replace("\n# ", " ")


@pytest.mark.usefixtures("reference")
def test_real_times_are_compared(layout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Whether a match is found depends on how busy the machine is; that times were compared does not.
    options = ["--layout", str(layout), "--rounds", "5", "--repeats", "1", "--tolerance", "0.95", "--autocast"]
    main(["match", "--reference", "mobilemamba_s6", *options])
    printed = capsys.readouterr().err
    assert re.search(r"^ +\d+ +\d+ +\d+\.\d{3} \+- \d+\.\d{3} times its throughput, scaled$", printed, re.MULTILINE)


@pytest.mark.usefixtures("reference")
def test_multiply_accumulates_are_matched_without_timing(layout: Path) -> None:
    assert main(["match", "--reference", "mobilemamba_s6", "--layout", str(layout), "--metric", "macs"]) == 0
    text = Path("runs/tiny_as_mobilemamba_s6.yaml").read_text()
    assert "times the MACs of mobilemamba_s6: multiply-accumulates at 64 x 64 pixels" in text
    assert "standard error" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_layout_is_found_by_its_name(name: str) -> None:
    layout = find_layout(name)
    assert layout.paper_row.startswith("Figure 3, ")
    assert layout.experiment["run"]["name"] == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference", "mobilemamba_s7"], "'mobilemamba_s7' is unknown to timm"),
        (["--layout", "four_stage"], "YAML file that exists. Did you mean four_stage_cnn?"),
        (["--layout", "missing.yaml"], "--layout = missing.yaml must be"),
        (["--tolerance", "3"], "--tolerance = 3.0 must be"),
        (["--rounds", "4"], "--rounds = 4 must be 5 or more"),
        (["--metric", "latency", "--batch-size", "2"], "--batch-size = 2 must be 1 for the latency"),
        (["--image-size", "16"], "--image-size = [16, 16] must be 32 or more for four_stage_cnn"),
        (["--image-size", "1", "2", "3"], "--image-size = [1, 2, 3] must be"),
        (["--device", "nowhere"], "--device = nowhere must be a device"),
        (["--output", "/proc/arm.yaml"], "/proc cannot be written"),
        (["--reference", "vit_tiny_patch16_224", "--image-size", "64"], "does not take images of 64x64 pixels"),
    ],
)
def test_what_is_not_possible_is_said_at_once(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = ["--reference", "mobilemamba_t2", "--layout", "four_stage_cnn"]  # what is given again counts
    assert main(["match", *defaults, *options]) == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "must hold the config of an experiment"),
        ("model: {network: {widht: 3}}", "model.network has no field widht"),
        ("model: {network: {widths: [192]}}", "MobileMambaConfig.depths = "),
        ("model: {network: 3}", "model.network = 3 must be fields"),
        ("model: [1, 2", "must be a YAML file"),
    ],
)
def test_a_file_that_is_no_layout_is_refused(
    text: str, message: str, layout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout.write_text(text)
    assert main(["match", "--reference", "mobilemamba_t2", "--layout", str(layout)]) == 1
    assert message in capsys.readouterr().err
