import json
import time
from pathlib import Path

import pytest
import torch

from mobilemamba.environment import environment
from mobilemamba.export.timing import interleaved
from mobilemamba.files import write_json
from mobilemamba.tables import table

CPU = torch.device("cpu")


def test_calls_take_turns_and_the_first_round_is_not_timed() -> None:
    order: list[str] = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 2, CPU)
    assert "".join(order) == "aabb" * 3
    assert timings["a"].calls == timings["b"].calls == 4


def test_rounds_to_warm_up_are_not_timed() -> None:
    calls: list[int] = []
    timings = interleaved(
        {"a": lambda: time.sleep(0.05 if len(calls) < 3 else 0) or calls.append(1)}, 2, 1, CPU, warmup=3
    )
    assert len(calls) == 5
    assert timings["a"].calls == 2
    assert timings["a"].median < 50
    assert interleaved({"a": lambda: None}, 2, 1, CPU, warmup=0)["a"].calls == 2


def test_times_are_milliseconds() -> None:
    timing = interleaved({"sleep": lambda: time.sleep(0.01)}, 2, 1, CPU)["sleep"]
    assert 10 <= timing.minimum <= timing.median < 1000


def test_table_is_aligned_markdown() -> None:
    lines = table(("network", "ms"), [("s6", "10.50"), ("shvit", "9.00")]).splitlines()
    assert lines == ["| network |    ms |", "| ------- | ----: |", "| s6      | 10.50 |", "| shvit   |  9.00 |"]


def test_columns_of_words_are_to_the_left() -> None:
    lines = table(("format", "for", "ms"), [("onnx", "engines", "1")], left=2).splitlines()
    assert lines == ["| format | for     | ms |", "| ------ | ------- | -: |", "| onnx   | engines |  1 |"]


def test_json_names_device_threads_and_versions(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "file.json", environment(CPU))
    content = json.loads((tmp_path / "results" / "file.json").read_text())
    assert content["device"]
    assert content["threads"] == torch.get_num_threads()
    assert content["versions"]["torch"] == torch.__version__
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["file.json"]


def test_unknown_network_names_near_ones() -> None:
    from benchmarks.networks import build

    with pytest.raises(ValueError, match="'shvit_s9' is unknown to timm; near names: shvit_s1"):
        build("shvit_s9", CPU)
