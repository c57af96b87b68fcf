import json
from pathlib import Path

import pytest
import torch

from benchmarks import ceiling, kernels, readme
from benchmarks.publish import around_markers, write_results
from mobilemamba.errors import UserError
from mobilemamba.export.timing import Timing
from mobilemamba.tables import table

ROOT = Path(__file__).parents[2]


def test_table_is_aligned_markdown_with_columns_of_words_to_the_left() -> None:
    lines = table(("format", "for", "ms"), [("onnx", "engines", "1.50")], left=2).splitlines()
    assert lines == ["| format | for     |   ms |", "| ------ | ------- | ---: |", "| onnx   | engines | 1.50 |"]


def test_json_names_device_threads_and_versions(tmp_path: Path) -> None:
    write_results(tmp_path / "results" / "file.json", torch.device("cpu"), [Timing(1, 2, 3), {"a": 1}], reference="b")
    content = json.loads((tmp_path / "results" / "file.json").read_text())
    about = content["environment"]
    assert about["device"]
    assert (about["threads"], about["versions"]["torch"]) == (torch.get_num_threads(), torch.__version__)
    assert content["reference"] == "b"
    assert content["results"] == [{"minimum": 1, "median": 2, "calls": 3}, {"a": 1}]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["file.json"]


def test_documents_have_a_place_for_every_table() -> None:
    pages = [(Path("docs/performance.md"), name) for name in (ceiling.MARKERS, kernels.MARKERS)]
    for path, name in [*readme.PLACES, *pages]:
        assert all(around_markers(ROOT / path, name))


def test_a_document_without_markers_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document, output = tmp_path / "page.md", tmp_path / "results.json"
    document.write_text("<!-- ceiling:begin -->\n")
    monkeypatch.chdir(tmp_path)
    Path("README.md").touch()
    with pytest.raises(UserError, match="write the lines <!-- latency:begin --> and <!-- latency:end -->"):
        readme.readme()
    for command, name in ((ceiling.ceiling, "ceiling"), (kernels.kernels, "cpu_kernels")):
        with pytest.raises(UserError, match=f"write the lines <!-- {name}:begin --> and <!-- {name}:end -->"):
            command(document=document, output=output)
