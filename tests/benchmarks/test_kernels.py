import json
from pathlib import Path

import pytest

from benchmarks import kernels as script
from mobilemamba import dispatch
from mobilemamba.errors import UserError


def test_all_forms_of_all_calls_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, output = tmp_path / "page.md", tmp_path / "results.json"
    document.write_text("before\n<!-- cpu_kernels:begin -->\n<!-- cpu_kernels:end -->\nafter\n")
    script.kernels("mobilemamba_t2", "shvit_s1", 1, 2, 1, output, document)
    content = json.loads(output.read_text())
    assert [result["call"] for result in content["results"]] == [
        "single image, eager",
        "single image, fused",
        "2 images, fused",
        "training step, 2 images",
    ]
    assert content["kept"]["kernels"] < content["kept"]["plain"]
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert text.count("| training step, 2 images") == 1
    assert "kernels / shvit_s1" in capsys.readouterr().out


def test_plain_operators_are_what_is_called_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    for call in script._in_plain_operators({"one": lambda: seen.append(dispatch._PLAIN.get())}).values():
        call()
    assert seen == [True]
    monkeypatch.setattr(dispatch, "_numba_kernels", lambda: None)
    with pytest.raises(UserError, match="pip install numba"):
        script.measure("mobilemamba_t2", "shvit_s1", 2, 1)
