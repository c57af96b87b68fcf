from __future__ import annotations

import math

import pytest

from experiments.studies.reporting.paired import PairedDifference, corrected, holm, paired_difference


def test_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); Student's t at 97.5 % with 2 degrees is 4.302653.
    found = paired_difference({0: 11.0, 1: 22.0, 2: 33.0}, {0: 10.0, 1: 20.0, 2: 30.0})
    assert found is not None
    assert found.mean == pytest.approx(2.0)
    assert found.pairs == 3
    half = 4.302653 / math.sqrt(3)
    assert found.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)
    # t = 2 sqrt(3) with 2 degrees: p = 1 - t / sqrt(t^2 + 2).
    t = 2 * math.sqrt(3)
    assert found.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2))


def test_two_pairs_by_hand() -> None:
    # With one degree of freedom: t at 97.5 % is 12.7062, p = 1 - 2 / pi * atan(t).
    found = paired_difference({3: 2.0, 5: 4.0}, {5: 1.0, 3: 1.0})
    assert found is not None
    assert found.interval == pytest.approx((2 - 12.7062, 2 + 12.7062), abs=1e-3)
    assert found.p_value == pytest.approx(1 - 2 / math.pi * math.atan(2))


def test_only_seeds_of_both_are_paired() -> None:
    found = paired_difference({0: 1.0, 1: 5.0, 7: 100.0}, {1: 4.0, 0: 1.5, 8: -100.0})
    assert found is not None
    assert (found.mean, found.pairs) == (pytest.approx(0.25), 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_one_pair_and_equal_pairs_have_no_interval() -> None:
    one = paired_difference({0: 3.0}, {0: 1.0})
    assert one == PairedDifference(2.0, 1)
    assert one.verdict == "one seed: no interval"
    # 0.3 - 0.2 and 0.2 - 0.1 differ by rounding alone.
    equal = paired_difference({0: 0.3, 1: 0.2}, {0: 0.2, 1: 0.1})
    assert equal is not None
    assert (equal.interval, equal.p_value) == (None, None)
    assert equal.verdict == "the same in every seed: no interval"
    assert not equal.is_distinguishable


def test_holm_by_hand() -> None:
    # In order 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, and none below one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.01]) == [0.01]
    assert holm([]) == []


def test_correction_leaves_out_what_has_no_test() -> None:
    differences = [PairedDifference(1.0, 3, (0.5, 1.5), 0.02), PairedDifference(1.0, 1)]
    differences.append(PairedDifference(-1.0, 3, (-1.9, -0.1), 0.04))
    assert [difference.holm_p_value for difference in corrected(differences)] == [0.04, None, 0.04]


@pytest.mark.parametrize(
    ("interval", "holm_p_value", "verdict", "distinguishable"),
    [
        ((-0.1, 2.1), 0.06, "not distinguishable from zero", False),
        ((0.0, 2.0), 0.05, "not distinguishable from zero", False),
        ((0.1, 1.9), 0.2, "not distinguishable from zero among several arms (Holm p = 0.2)", False),
        ((0.5, 1.5), 0.004, "higher (Holm p = 0.004)", True),
    ],
)
def test_verdicts(interval: tuple[float, float], holm_p_value: float, verdict: str, distinguishable: bool) -> None:
    difference = PairedDifference(1.0, 3, interval, 0.01, holm_p_value)
    assert difference.verdict == verdict
    assert difference.is_distinguishable == distinguishable
    lower = PairedDifference(-1.0, 3, (-1.5, -0.5), 0.001, 0.004)
    assert lower.verdict == "lower (Holm p = 0.004)"
