import json
from pathlib import Path

import pytest

from benchmarks import kernels
from benchmarks.networks import Candidate
from mobilemamba import MobileMamba, MobileMambaConfig, UserError, dispatch


def test_all_forms_of_all_calls_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    network = MobileMamba(MobileMambaConfig(widths=(16, 16, 16), depths=(1, 1, 1), num_classes=5)).eval()
    monkeypatch.setattr(kernels, "build", lambda name, device: Candidate(name, network, (3, 64, 64)))
    document, output = tmp_path / "page.md", tmp_path / "results.json"
    document.write_text("before\n<!-- cpu_kernels:begin -->\n<!-- cpu_kernels:end -->\nafter\n")
    kernels.kernels("ours", "other", 1, 2, 1, output, document)
    content = json.loads(output.read_text())
    calls = ["single image, eager", "single image, fused", "2 images, fused", "training step, 2 images"]
    assert [result["call"] for result in content["results"]] == calls
    assert all(result[form]["minimum"] > 0 for result in content["results"] for form in kernels.FORMS)
    assert content["kept"]["kernels"] < content["kept"]["plain"]
    text = document.read_text()
    assert (text.startswith("before\n"), text.endswith("after\n")) == (True, True)
    assert text.count("| training step, 2 images") == 1
    assert "kernels / other" in text


def test_plain_operators_are_what_is_called_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.in_plain_operators(dispatch._PLAIN.get)
    assert not dispatch._PLAIN.get()
    monkeypatch.setattr(dispatch, "_numba_kernels", lambda: None)
    with pytest.raises(UserError, match="pip install numba"):
        kernels.measure("mobilemamba_t2", "shvit_s1", 2, 1)
