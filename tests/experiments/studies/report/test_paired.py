from __future__ import annotations

import math

import pandas as pd
import pytest

from experiments.studies.report.paired import holm, paired_differences, verdict


def compare(**arms: dict[int, float]) -> pd.DataFrame:
    return paired_differences(pd.DataFrame(arms), "base")


def test_intervals_by_hand() -> None:
    base = {0: 10.0, 1: 20.0, 2: 30.0}
    found = compare(three={0: 11.0, 1: 22.0, 2: 33.0}, base=base, two={2: 34.0, 1: 20.5, 7: 100.0})
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); Student's t at 97.5 % with 2 degrees is 4.302653.
    half = 4.302653 / math.sqrt(3)
    three, two = found.loc["three"], found.loc["two"]
    assert (three.difference, three.pairs) == (pytest.approx(2.0), 3)
    assert (three.difference_low, three.difference_high) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    # t = 2 sqrt(3) with 2 degrees: p = 1 - t / sqrt(t^2 + 2).
    t = 2 * math.sqrt(3)
    assert three.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2))
    # Only seeds of both are paired: 0.5 and 4. One degree of freedom: t at 97.5 % is 12.7062, p = 1 - 2 / pi * atan(t).
    assert (two.difference, two.pairs) == (pytest.approx(2.25), 2)
    assert two.difference_high == pytest.approx(2.25 + 1.75 * 12.7062, abs=1e-3)
    assert two.p_value == pytest.approx(1 - 2 / math.pi * math.atan(2.25 / 1.75))
    # Two tests: the smaller p-value counts twice.
    assert three.holm_p_value == pytest.approx(2 * three.p_value)
    assert two.holm_p_value == pytest.approx(two.p_value)


def test_one_pair_and_equal_pairs_have_no_interval_and_none_have_no_row() -> None:
    # 0.3 - 0.2 and 0.2 - 0.1 differ by rounding alone.
    found = compare(base={0: 0.2, 1: 0.1}, one={0: 2.2}, equal={0: 0.3, 1: 0.2}, none={5: 1.0})
    assert list(found.index) == ["one", "equal"]
    assert found["verdict"].tolist() == ["one seed: no interval", "the same in every seed: no interval"]
    assert found[["difference_low", "p_value", "holm_p_value"]].isna().all(axis=None)
    assert not found["is_distinguishable"].any()
    assert found["difference"].tolist() == pytest.approx([2.0, 0.1])


def test_holm_by_hand() -> None:
    # In order 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, and none below one before. What has no test does not count.
    corrected = holm(pd.Series([0.04, math.nan, 0.01, 0.03, 0.02]))
    assert corrected.tolist() == pytest.approx([0.06, math.nan, 0.04, 0.06, 0.06], nan_ok=True)
    assert holm(pd.Series([0.5, 0.9])).tolist() == pytest.approx([1.0, 1.0])
    assert holm(pd.Series([], dtype=float)).empty


@pytest.mark.parametrize(
    ("interval", "holm_p_value", "expected"),
    [
        ((-0.1, 2.1), 0.06, ("not distinguishable from zero", False)),
        ((0.0, 2.0), 0.05, ("not distinguishable from zero", False)),
        ((0.1, 1.9), 0.2, ("not distinguishable from zero among several arms (Holm p = 0.2)", False)),
        ((0.5, 1.5), 0.004, ("higher (Holm p = 0.004)", True)),
        ((-1.5, -0.5), 0.004, ("lower (Holm p = 0.004)", True)),
    ],
)
def test_verdicts(interval: tuple[float, float], holm_p_value: float, expected: tuple[str, bool]) -> None:
    assert verdict(sum(interval) / 2, *interval, 3, holm_p_value) == expected
