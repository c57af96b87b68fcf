import json
import sys
from pathlib import Path

import pytest

from benchmarks import kernels
from mobilemamba import UserError


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- cpu_kernels:begin -->\n<!-- cpu_kernels:end -->\nafter\n")
    return path


@pytest.mark.usefixtures("tiny_networks")
def test_all_forms_of_all_calls_are_measured(document: Path) -> None:
    pytest.importorskip("numba")
    output = document.with_suffix(".json")
    kernels.kernels("mobilemamba_t2", "shvit_s1", 1, 2, 1, output, document)
    results = json.loads(output.read_text())["results"]
    networks = ("mobilemamba_t2 in plain operators", "mobilemamba_t2", "shvit_s1")
    kinds = [("eager", 1), ("fused", 1), ("fused", 2), ("training", 2)]
    assert [(one["network"], one["form"], one["batch_size"]) for one in results] == [
        (name, *kind) for name in networks for kind in kinds
    ]
    kept = [one["megabytes_per_image"] for one in results if one["form"] == "training"]
    assert kept[1] < kept[0]  # plain operators keep more than kernels
    text = document.read_text()
    assert (text.startswith("before\n"), text.endswith("after\n")) == (True, True)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    assert lines[0][1:4] == ["plain operators", "kernels", "shvit_s1"]
    step = [one["timing"]["minimum"] for one in results if one["form"] == "training"]
    assert lines[5][:5] == ["training step, 2 images", *(f"{ms:.1f}" for ms in step), f"{step[1] / step[0]:.2f}"]
    assert lines[6][1:4] == [f"{megabytes:.1f}" for megabytes in kept]


def test_without_numba_there_is_nothing_to_measure(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mobilemamba.kernels", None)
    with pytest.raises(UserError, match="pip install numba"):
        kernels.kernels(output=document.with_suffix(".json"), document=document, threads=1)
