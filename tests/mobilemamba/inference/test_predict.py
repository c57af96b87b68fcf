"""Every picture gets its class, from weights and from exported files alike."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import onnx
import pytest

from experiments.cli import main
from lightning_modules.export_command import export
from mobilemamba.export.formats import FORMATS, FormatName


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_a_folder_is_named(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "named.csv"
    assert main(["predict", "--weights", str(checkpoint), str(pictures), "--output", str(output), "--top-k", "9"]) == 0
    header, *rows = read(output)
    assert header == ["path", *(f"{name}_{rank}" for rank in (1, 2, 3) for name in ("class", "probability"))]
    assert len(rows) == 9
    for path, first, probability, *_ in rows:
        assert Path(path).parent.name == first
        assert float(probability) > 0.9
    assert "| probability |" in capsys.readouterr().out


@pytest.mark.parametrize(("form", "error"), [("onnx", 1e-5), ("pt2", 1e-5), ("onnx-float16", 1e-2)])
def test_an_exported_file_gives_the_same_answer(
    checkpoint: Path, pictures: Path, tmp_path: Path, form: FormatName, error: float
) -> None:
    file = tmp_path / f"network{FORMATS[form].suffix}"
    export(str(checkpoint), format=form, output=file, dynamic_batch=form == "pt2")
    chosen = [str(pictures / "red"), str(pictures / "blue" / "0.png")]
    answers = []
    for source in (checkpoint, file):
        output = tmp_path / "named.json"
        assert main(["predict", *chosen, "--weights", str(source), "--output", str(output)]) == 0
        answers.append(json.loads(output.read_text()))
    ours, theirs = answers
    assert [entry["classes"] for entry in theirs] == [entry["classes"] for entry in ours]
    for mine, other in zip(ours, theirs, strict=True):
        assert other["probabilities"] == pytest.approx(mine["probabilities"], abs=error)


def test_a_picture_that_is_none_is_named_at_the_end(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "red" / "text.png").write_text("no picture")
    output = tmp_path / "named.csv"
    assert main(["predict", str(pictures), "--weights", str(checkpoint), "--output", str(output)]) == 1
    assert "1 image(s) could not be read; all others were classified." in (error := capsys.readouterr().err)
    assert "text.png" in error
    assert len(read(output)) == 10


def test_what_cannot_be_used_is_one_line(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), bare)
    for options, expected in (
        (["--weights", str(bare)], "bare.onnx cannot be opened, or has no metadata"),
        (["--weights", str(tmp_path / "missing.onnx")], "missing.onnx does not exist"),
        (["--weights", "published"], "need a variant"),
        (["--weights", str(checkpoint), "--top-k", "0"], "--top-k = 0 must be 1 or more"),
        (["--weights", str(checkpoint), "--output", "x.txt"], "must be a .csv or .json file"),
    ):
        assert main(["predict", str(pictures), *options]) == 1
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    assert main(["predict", str(tmp_path / "nowhere"), "--weights", str(checkpoint)]) == 1
    assert "nowhere must be" in capsys.readouterr().err
