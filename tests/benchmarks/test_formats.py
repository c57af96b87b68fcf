import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import formats
from datamodules import DigitsDataModule
from mobilemamba.errors import UserError
from mobilemamba.export import formats as export_formats
from mobilemamba.export.formats import FormatName


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document to write into, on a machine without any optional format."""
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text("model: {network: {widths: [16, 16, 16], depths: [1, 1, 1]}}")
    monkeypatch.setattr(formats, "QUICKSTART_FILE", tiny)
    monkeypatch.setattr(export_formats, "find_spec", lambda name: name if name.startswith("onnx") else None)
    path = tmp_path / "table.md"
    path.write_text("before\n<!-- formats:begin -->\nolder\n<!-- formats:end -->\nafter\n")
    return path


def run(document: Path, forms: Sequence[FormatName] = tuple(formats.FORMATS)) -> dict[str, dict[str, Any]]:
    output = document.with_suffix(".json")
    formats.formats(["quickstart"], list(forms), None, 1, 1, output, document)
    return {result["format"]: result for result in json.loads(output.read_text())["results"]}


def test_every_format_is_listed_with_what_became_of_it(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = run(document)
    missing = {form for form, result in results.items() if result["outcome"] == "not installed"}
    assert missing == set(formats.FORMATS) - {"onnx", "pt2"}
    for form in ("onnx", "pt2"):
        assert results[form]["outcome"] == "passed"
        assert results[form]["conclusive"]
        assert results[form]["max_abs_error"] < 1e-4
        assert results[form]["timing"]["minimum"] > 0
        assert results[form]["size_bytes"] > 0
    text = document.read_text()
    assert (text.startswith("before\n"), text.endswith("after\n"), "older" in text) == (True, True, False)
    assert "| not installed |" in text
    assert "| yes, compared |" in text
    assert 'pip install ".[litert]"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "outcome"), [(UserError("differs"), "refused"), (KeyError("operator"), "failed")], ids=str
)
def test_a_format_that_fails_is_listed_with_the_reason(
    error: Exception, outcome: str, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(formats, "export_network", fail)
    result = run(document, ("onnx",))["onnx"]
    assert result["outcome"] == outcome
    assert str(error.args[0]) in result["message"]
    assert result["timing"] is None


def test_quickstart_is_the_network_of_its_config() -> None:
    network, size = formats.trained_looking("quickstart")
    data = DigitsDataModule()
    assert (network.config.widths, network.num_classes, size) == (
        (32, 48, 64),
        data.num_classes,
        (data.image_size,) * 2,
    )


def test_only_a_mobilemamba_is_tried() -> None:
    with pytest.raises(UserError, match="'shvit_s1' is no MobileMamba"):
        formats.trained_looking("shvit_s1")


def test_a_document_without_markers_is_refused_before_any_work(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "measure", None)  # calling it would fail
    document.write_text("<!-- formats:begin -->\n")
    with pytest.raises(UserError, match="write the lines <!-- formats:begin --> and <!-- formats:end -->"):
        run(document)
