import dataclasses
import json
import os
import re
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from lightning_modules import export_command
from mobilemamba import VARIANTS, MobileMamba, MobileMambaConfig, ModelMetadata, Variant
from mobilemamba.export import ExportOptions, read_metadata
from mobilemamba.export.formats import FORMATS
from mobilemamba.export.int8.options import Int8Options
from mobilemamba.export.int8.report import Int8Report
from tests.mobilemamba.export.conftest import int8_report

METADATA = ModelMetadata(image_size=(64, 64), class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def config() -> MobileMambaConfig:
    return MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), mixer_stages=(False, True, False), num_classes=3)


@pytest.fixture(scope="module")
def checkpoint(config: MobileMambaConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``lightning fit`` writes, with other raw than averaged weights."""
    averaged, raw = MobileMamba(config), MobileMamba(config)
    content = {
        "mobilemamba": {"config": dataclasses.asdict(config), "metadata": METADATA.to_dict()},
        "state_dict": {f"student.{key}": value for key, value in averaged.state_dict().items()},
        "current_model_state": {f"student.{key}": value for key, value in raw.state_dict().items()},
    }
    path = tmp_path_factory.mktemp("checkpoints") / "best.ckpt"
    torch.save(content, path)
    return path


def logits(path: Path) -> torch.Tensor:
    return torch.export.load(path).module()(torch.ones(1, 3, 64, 64))


def test_export_prints_a_table_and_writes_beside_the_checkpoint(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--checkpoint", str(checkpoint)]) == 0
    printed = capsys.readouterr()
    assert "best.onnx" in printed.out
    assert "16 x 3 x 64 x 64" in printed.out
    assert "100.0%" in printed.out
    assert printed.err == ""
    assert json.loads(checkpoint.with_name("best.onnx.parity.json").read_text())["passed"]
    assert read_metadata(checkpoint.with_suffix(".onnx")) == METADATA


def test_float16_is_printed_with_both_its_errors(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.float16.onnx"
    assert main(["export", "--checkpoint", str(checkpoint), "--format", "onnx-float16", "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(path.with_name("model.float16.onnx.parity.json").read_text())
    assert "tolerance 0.02" in printed
    assert f"to float16, as on GPUs, in PyTorch: {report['half']['max_abs_error']:.1e}, same top class" in printed
    assert read_metadata(path) == METADATA


def test_a_file_that_was_not_compared_is_called_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(FORMATS, "pt2", dataclasses.replace(FORMATS["pt2"], platform="another"))
    options = ["--format", "pt2", "--no-dynamic-batch", "--output", str(tmp_path / "model.pt2")]
    assert main(["export", "--checkpoint", str(checkpoint), *options]) == 0
    printed = capsys.readouterr().out
    assert "CONVERTED, NOT RUN: this system has no pt2 runtime, so the file was NOT compared" in printed
    assert "same top class" not in printed


def test_export_takes_raw_weights_and_another_size(checkpoint: Path, tmp_path: Path) -> None:
    def export(weights: str) -> Path:
        output = tmp_path / f"{weights}.pt2"
        options = ["--weights-kind", weights, "--image-size", "64", "64", "--no-dynamic-batch", "--output", str(output)]
        assert main(["export", "--checkpoint", str(checkpoint), "--format", "pt2", *options]) == 0
        return output

    assert not torch.allclose(logits(export("ema")), logits(export("raw")))


def test_published_weights_need_the_variant_alone(
    config: MobileMambaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "mobilemamba_s6", Variant(config, 96, 78.0, 80.7, 0.652))
    path = tmp_path / "published.pth"
    torch.save({"net": MobileMamba(config).state_dict()}, path)
    arguments = ["export", "--checkpoint", str(path), "--variant", "mobilemamba_s6", "--format", "pt2"]
    assert main([*arguments, "--no-dynamic-batch"]) == 0
    assert read_metadata(path.with_suffix(".pt2")) == ModelMetadata(image_size=(96, 96))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--checkpoint FOLDER/missing.ckpt --output FOLDER/m.onnx", "missing.ckpt must be 'published'"),
        ("--weights published", "--output must name the file to write, such as mobilemamba.onnx"),
        ("--checkpoint FOLDER/other.ckpt", "does not name the network of its weights"),
        ("--checkpoint FOLDER/t2.pth --variant mobilemamba_s6", "The weights do not fit the model"),
        ("--checkpoint FOLDER/t2.pth --variant s6", "variant = 's6' must be one of mobilemamba_b1"),
        ("--checkpoint CHECKPOINT --output FOLDER/t2.pth/model.onnx", "cannot be written"),
        ("--checkpoint CHECKPOINT --output FOLDER/m.onnx --image-size 32 64", "image_size = 32x64 is too small"),
        ("--checkpoint CHECKPOINT --image-size 64", "--image-size = [64] must be two numbers"),
        ("--checkpoint CHECKPOINT --tolerance 0", "tolerance = 0.0 must be"),
        ("--checkpoint CHECKPOINT --opset 16", "opset = 16 must be 17 to 23"),
        ("--checkpoint CHECKPOINT --format onnx-float16 --output FOLDER/m.onnx", "let its name end in .float16.onnx"),
        ("--checkpoint CHECKPOINT --output FOLDER/m.float16.onnx", "does not fit format 'onnx'"),
        ("--checkpoint CHECKPOINT --format executorch", "by --no-dynamic-batch"),
        ("--checkpoint missing.ckpt --int8", "--int8 needs --calibration FOLDER"),
        ("--checkpoint missing.ckpt --calibration images", "--calibration belongs to --int8: add that"),
        ("--checkpoint missing.ckpt --max-accuracy-drop 2", "--max-accuracy-drop belongs to --int8"),
        (
            "--checkpoint missing.ckpt --int8 --calibration images --compared-images 3",
            "compared_images = 3 must be 32 or more",
        ),
    ],
)
def test_user_errors_are_one_line_and_status_1(
    arguments: str, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.ckpt")
    if "t2.pth" in arguments:
        torch.save({"net": MobileMamba(VARIANTS["mobilemamba_t2"].config).state_dict()}, tmp_path / "t2.pth")
    words = [w.replace("FOLDER", str(tmp_path)).replace("CHECKPOINT", str(checkpoint)) for w in arguments.split()]
    assert main(["export", *words]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("mobilemamba export: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not any(name.endswith((".onnx", ".pt2")) for name in os.listdir(tmp_path))


def test_int8_is_exported_with_the_options_given_and_both_files_are_printed(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def export(network: MobileMamba, path: Path, *options: object) -> Int8Report:
        asked.extend((path, *options))
        return int8_report()

    monkeypatch.setattr(export_command, "export_int8", export)
    options = ["--int8", "--calibration", "photos", "--validation", "labelled", "--max-accuracy-drop", "10"]
    assert main(["export", "--checkpoint", str(checkpoint), *options]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\| float32 +\| +80\.30% \|.* 2\.00 \|", printed)
    assert re.search(r"\| int8 +\| +79\.30% \|.* 1\.00 \|", printed)
    assert "Same top class for 95.00% of 1000 images" in printed
    assert "not faster" not in printed
    int8_options = Int8Options(Path("photos"), Path("labelled"), max_accuracy_drop=10.0)
    assert asked == [checkpoint.with_suffix(".int8.onnx"), ExportOptions(), int8_options, METADATA]
