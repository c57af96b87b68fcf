import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.cli import main
from mobilemamba import VARIANTS, MobileMamba, MobileMambaConfig, ModelMetadata, Variant
from mobilemamba.export import command as export_command
from mobilemamba.export import export as export_module
from mobilemamba.export import read_metadata
from mobilemamba.export.formats.torch_export import FORMAT

METADATA = ModelMetadata(image_size=(64, 64), class_names=("a", "b", "c"))


@pytest.fixture(scope="module")
def config() -> MobileMambaConfig:
    return MobileMambaConfig(widths=(16, 32, 32), depths=(1, 1, 1), num_classes=3)


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


def test_a_file_that_was_not_compared_is_called_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export_module, "file_format", lambda _: dataclasses.replace(FORMAT, load=None))
    options = ["--format", "pt2", "--no-dynamic-batch", "--output", str(tmp_path / "model.pt2")]
    assert main(["export", "--checkpoint", str(checkpoint), *options]) == 0
    printed = capsys.readouterr().out
    assert "CONVERTED, NOT RUN: this system has no pt2 runtime, so the file was NOT compared" in printed
    assert "same top class" not in printed


def test_export_takes_raw_weights_and_another_size(checkpoint: Path, tmp_path: Path) -> None:
    def export(weights: str) -> Path:
        output = tmp_path / f"{weights}.pt2"
        options = ["--weights", weights, "--image-size", "64", "64", "--no-dynamic-batch", "--output", str(output)]
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


def _missing(folder: Path, checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(folder / "missing.ckpt")]


def _no_checkpoint(folder: Path, checkpoint: Path) -> list[str]:
    torch.save({"weight": torch.zeros(1)}, folder / "other.ckpt")
    return ["--checkpoint", str(folder / "other.ckpt")]


def _another_variant(folder: Path, checkpoint: Path) -> list[str]:
    torch.save({"net": MobileMamba(VARIANTS["mobilemamba_t2"].config).state_dict()}, folder / "t2.pth")
    return ["--checkpoint", str(folder / "t2.pth"), "--variant", "mobilemamba_s6"]


def _unwritable(folder: Path, checkpoint: Path) -> list[str]:
    (folder / "file").touch()
    return ["--checkpoint", str(checkpoint), "--output", str(folder / "file" / "model.onnx")]


def _small(folder: Path, checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--output", str(folder / "m.onnx"), "--image-size", "32", "64"]


def _tolerance(folder: Path, checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--output", str(folder / "m.onnx"), "--tolerance", "0"]


def _fixed_shape(folder: Path, checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--format", "executorch"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (_missing, "missing.ckpt does not exist"),
        (_no_checkpoint, "is no training checkpoint of this project"),
        (_no_checkpoint, "name their network by --variant"),
        (_another_variant, "The weights do not fit the model"),
        (_unwritable, "cannot be written"),
        (_small, "image_size = 32x64 is too small"),
        (_tolerance, "tolerance = 0.0 must be"),
        (_fixed_shape, "by --no-dynamic-batch"),
    ],
)
def test_user_errors_are_one_line_and_status_1(
    arguments: Any, message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *arguments(tmp_path, checkpoint)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("mobilemamba export: error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not any(name.endswith((".onnx", ".pt2")) for name in os.listdir(tmp_path))


def test_ctrl_c_is_no_traceback(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export_command, "export_network", interrupt)
    assert main(["export", "--checkpoint", str(checkpoint)]) == 130
    assert capsys.readouterr().err == "mobilemamba export: interrupted\n"


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"]])
def test_help_names_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 0
    assert "export" in capsys.readouterr().out
