import json
import time
from pathlib import Path

import torch

from mobilemamba.environment import environment
from mobilemamba.export.timing import interleaved
from mobilemamba.files import write_json
from mobilemamba.tables import table

CPU = torch.device("cpu")


def test_calls_take_turns_and_rounds_to_warm_up_are_not_timed() -> None:
    order: list[str] = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 2, CPU, warmup=3)
    assert "".join(order) == "aabb" * 5
    assert timings["a"].calls == timings["b"].calls == 4


def test_times_are_milliseconds() -> None:
    timing = interleaved({"sleep": lambda: time.sleep(0.01)}, 2, 1, CPU)["sleep"]
    assert 10 <= timing.minimum <= timing.median


def test_table_is_aligned_markdown_with_columns_of_words_to_the_left() -> None:
    lines = table(("format", "for", "ms"), [("onnx", "engines", "1.50")], left=2).splitlines()
    assert lines == ["| format | for     |   ms |", "| ------ | ------- | ---: |", "| onnx   | engines | 1.50 |"]


def test_json_names_device_threads_and_versions(tmp_path: Path) -> None:
    write_json(tmp_path / "results" / "file.json", environment(CPU))
    content = json.loads((tmp_path / "results" / "file.json").read_text())
    assert content["device"]
    assert content["threads"] == torch.get_num_threads()
    assert content["versions"]["torch"] == torch.__version__
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["file.json"]
