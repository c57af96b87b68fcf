import json
from pathlib import Path

import pytest
import torch

from benchmarks import ceiling, scan
from benchmarks.scan import ScanSize, measure, scan_sizes
from mobilemamba.scan.parallel import parallel_scan

SIZE = ScanSize(height=3, width=4, channels=5, directions=2, state_size=1)


def test_sizes_are_those_of_the_stages() -> None:
    stages = [(14, 14, 320), (7, 7, 544), (4, 4, 544)]
    assert scan_sizes("mobilemamba_s6") == [ScanSize(*stage, directions=2, state_size=1) for stage in stages]


def test_command_measures_each_form_and_both_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scan, "scan_sizes", lambda network: [SIZE])
    monkeypatch.setattr(ceiling, "COPY_BYTES", {"cpu": 2**10})
    output = tmp_path / "scan.json"
    scan.scan(dtypes=["bfloat16"], batch_size=2, rounds=1, output=output)
    assert "of copy" in capsys.readouterr().out
    results = json.loads(output.read_text())["results"]
    passes = ("forward", "forward and backward")
    forms = ("parallel", "rows", "sequential")
    assert [(r["form"], r["passes"]) for r in results] == [(f, p) for f in forms for p in passes]
    maps = 2 * 2 * 12 * (5 + 2 * 5 + 2 + 2)  # bytes, images, pixels, channels of u, logits, B and C
    parameters, y = 4 * 2 * (5 + 5), 4 * 2 * 12 * 5
    assert results[0]["gigabytes"] * 1e9 == pytest.approx(maps + parameters + y)
    assert results[1]["gigabytes"] * 1e9 == pytest.approx(3 * (maps + parameters) + 2 * y)
    for result in results:
        seconds = result["timing"]["minimum"] / 1e3
        assert result["gigabytes_per_second"] == pytest.approx(result["gigabytes"] / seconds)
        assert result["share_of_copy"] > 0


def test_a_form_with_other_values_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: torch.Tensor, form: str) -> torch.Tensor:
        return parallel_scan(*arguments) * (1 if form == "parallel" else 1.1)

    monkeypatch.setattr(scan, "selective_scan", wrong)
    with pytest.raises(RuntimeError, match="Form rows is not timed: it differs from parallel by"):
        measure(SIZE, "float32", ["rows"], batch_size=2, rounds=1, device=torch.device("cpu"))
