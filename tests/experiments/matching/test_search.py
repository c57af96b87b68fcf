from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from benchmarks.networks import Candidate
from experiments.matching import cost
from experiments.matching.cost import Comparison, Conditions, macs_measure, standard_error, time_measure
from experiments.matching.search import Search, first_scale
from experiments.matching.widths import LARGEST_WIDTH, Widths, WidthSpace
from mobilemamba import MobileMamba, MobileMambaConfig
from mobilemamba.complexity import complexity
from mobilemamba.errors import UserError

SPACE = WidthSpace(MobileMambaConfig(widths=(96, 192, 288)), 8)

Cost = Callable[[Widths], float]


class Scripted:
    """Measures by a formula, and keeps what it was asked."""

    def __init__(self, cost: Cost, target: float, noise: float = 0.001) -> None:
        self.cost, self.target, self.noise = cost, target, noise
        self.asked: list[tuple[list[Widths], int]] = []

    def __call__(self, candidates: Sequence[Widths], factor: int = 1) -> list[Comparison]:
        self.asked.append((list(candidates), factor))
        return [Comparison(widths, self.cost(widths), self.target, self.noise) for widths in candidates]


def uneven(widths: Widths) -> float:
    """Costs like those of hardware: most in the first stage, and more where a width is no multiple of 16."""
    return sum(
        weight * width**1.3 * (1.0 if width % 16 == 0 else 1.15)
        for weight, width in zip((9, 3, 1), widths, strict=True)
    )


def search(measure: Scripted, tolerance: float = 0.03, scale: float = 1.0) -> Comparison:
    return Search(SPACE, measure, tolerance, lambda *_: None).run(scale)


@pytest.mark.parametrize(
    ("target", "guess"), [(2_000, 3.0), (7_000, 0.5), (11_111, 1.0), (40_000, 0.5), (60_000, 1.0), (60_000, 3.0)]
)
def test_widths_are_found_from_near_and_far(target: float, guess: float) -> None:
    measure = Scripted(uneven, target)
    found = search(measure, scale=guess)
    assert found.within(0.03)
    assert uneven(found.widths) == pytest.approx(target, rel=0.031)
    assert len(measure.asked) < 18
    assert measure.asked[-1] == ([found.widths], 2)  # what counts was measured anew, and longer


def test_single_stages_change_where_scaling_steps_over_the_reference() -> None:
    def first_stage_alone_is_dear(widths: Widths) -> float:
        return 1000 * widths[0] + widths[1] + widths[2]

    # Scaled by one factor, the others are 504 wide in sum where the first is 96 wide, at most.
    found = search(Scripted(first_stage_alone_is_dear, 1000 * 96 + 540, noise=0.0), tolerance=1e-4)
    assert found.widths[0] == 96
    assert abs(found.widths[1] + found.widths[2] - 540) <= 8


def test_a_lucky_sample_is_no_match() -> None:
    calls = itertools.count()

    def lucky_once(widths: Widths) -> float:
        return 100.0 if next(calls) == 0 else uneven(widths)

    measure = Scripted(lucky_once, 100.0)
    with pytest.raises(UserError):
        search(measure)
    assert measure.asked[:2] == [([SPACE.at(1.0)], 1), ([SPACE.at(1.0)], 2)]


def test_each_widths_are_measured_anew_once() -> None:
    generator = random.Random(0)
    measure = Scripted(lambda widths: uneven(widths) * math.exp(generator.gauss(0, 0.05)), 11_111)
    with contextlib.suppress(UserError):
        search(measure, tolerance=0.01)
    confirmed = [candidates[0] for candidates, effort in measure.asked if effort == 2]
    assert len(confirmed) == len(set(confirmed))


@pytest.mark.parametrize(
    ("target", "tolerance", "message"),
    [
        (uneven((8, 8, 8)) / 2, 0.03, r"\[8, 8, 8\], at 2\.000 times the reference's cost.*cannot be made cheaper"),
        (uneven((LARGEST_WIDTH,) * 3) * 10, 0.03, rf"\[680, 1368, {LARGEST_WIDTH}\], .*use a smaller reference"),
        (11_111, 1e-6, r"within 0\.0%.*wider --tolerance"),
    ],
)
def test_a_reference_that_no_widths_match_names_the_nearest(target: float, tolerance: float, message: str) -> None:
    measure = Scripted(uneven, target, noise=0.0)
    with pytest.raises(UserError, match=rf"No widths match .*{message}"):
        search(measure, tolerance)
    assert len(measure.asked) < (9 if tolerance > 0.01 else 30)


def test_a_noisy_figure_is_measured_longer_whatever_it_says() -> None:
    measure = Scripted(uneven, uneven(SPACE.at(1.0)), noise=0.02)
    with pytest.raises(
        UserError, match=r"Cannot decide whether .* match: 1\.000 times .* standard error of 2\.0%.*Use an idle machine"
    ):
        search(measure)
    assert measure.asked == [([SPACE.at(1.0)], effort) for effort in (1, 2, 6)]


def test_first_scale_is_where_multiply_accumulates_agree() -> None:
    measure = Scripted(lambda widths: float(sum(width**2 for width in widths)), 516_096)
    assert SPACE.at(first_scale(SPACE, measure)) == (192, 384, 576)


def test_tolerance_holds_in_both_directions_and_ratios_say_what_their_metric_means() -> None:
    # 1 / 0.9705 is 1.0304.
    costs = {102.9: True, 97.1: True, 97.05: False, 103.1: False}
    assert {cost: Comparison((8,), cost, 100.0).within(0.03) for cost in costs} == costs
    dearer = Comparison((8,), 200.0, 100.0)
    assert dearer.ratio("throughput") == 0.5
    assert dearer.ratio("latency") == dearer.ratio("macs") == 2.0


def test_the_standard_error_is_that_of_five_parts() -> None:
    # Ratios of the parts' medians: 1, 1, 1, 1 and e.
    seconds = [2.0, 0.5, 1.0] * 4 + [math.e, 3.0, 0.1]
    expected = math.sqrt(((1 - 0.2) ** 2 + 4 * 0.2**2) / 4) / math.sqrt(5)
    assert standard_error(seconds, [1.0] * 15) == pytest.approx(expected)
    assert standard_error([3.0] * 7, [1.0] * 7) == 0.0


SMALL = MobileMambaConfig(widths=(16, 16, 16), depths=(1, 1, 1), num_classes=3)


def test_multiply_accumulates_of_a_layout_beside_itself() -> None:
    measure = macs_measure(WidthSpace(SMALL, 8), complexity(MobileMamba(SMALL), (64, 64)).total_macs, (64, 64))
    same, wider = measure([(16, 16, 16), (32, 32, 32)], 1)
    assert same.distance == 0.0
    assert 2 < wider.relative_cost < 4


class OneLayer(nn.Module):
    """As wide as a candidate's first stage; all of them share one forward pass."""

    def __init__(self, config: MobileMambaConfig) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, config.widths[0], 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


def test_every_candidate_is_compiled_and_timed_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_widths: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        compiled_widths.append(next(len(value) for value in inputs if value.ndim == 1))  # the bias
        return graph.forward

    def timed(calls: dict[str, Callable[[], Tensor]], rounds: int, *_: object) -> dict[str, list[float]]:
        assert rounds == 10  # twice as many as usual
        assert [call().shape[1] for call in calls.values()] == [88, *candidates]
        return {name: [1e-9, *[0.001 * (index + 1)] * (rounds - 1)] for index, name in enumerate(calls)}

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: compiled(network, backend=backend))
    monkeypatch.setattr(cost, "MobileMamba", OneLayer)
    monkeypatch.setattr(cost, "interleaved_seconds", timed)
    candidates = list(range(8, 88, 8))  # more than torch.compile keeps by default
    network = MobileMambaConfig(widths=(88, 88, 88), num_classes=3)
    conditions = Conditions(1, torch.device("cpu"), rounds=5, repeats=1, compile=True)
    reference = Candidate("reference", OneLayer(network).eval(), (3, 8, 8))
    measure = time_measure(WidthSpace(network, 8), reference, conditions)
    results = measure([(width, 88, 88) for width in candidates], 2)
    assert compiled_widths == [88, *candidates]
    assert [result.widths for result in results] == [(width, 88, 88) for width in candidates]
    assert [result.cost for result in results] == pytest.approx([float(index) for index in range(2, 12)])
    assert [result.reference_cost for result in results] == pytest.approx([1.0] * 10)
