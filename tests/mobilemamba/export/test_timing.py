import time

import torch

from mobilemamba.export.timing import interleaved

CPU = torch.device("cpu")


def test_calls_take_turns_and_rounds_to_warm_up_are_not_timed() -> None:
    order: list[str] = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, 2, CPU, warmup=3)
    assert "".join(order) == "aabb" * 5
    assert timings["a"].calls == timings["b"].calls == 4


def test_times_are_milliseconds() -> None:
    timing = interleaved({"sleep": lambda: time.sleep(0.01)}, 2, 1, CPU)["sleep"]
    assert 10 <= timing.minimum <= timing.median
