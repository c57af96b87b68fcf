"""Differences between two arms whose runs share their seeds, and how sure they are.

A pair of runs with one seed shares the order of the data and the random numbers, as far as the arms allow; the
difference within pairs has less noise than that of two means. The interval is Student's t over seeds. With many arms
one in twenty intervals of 95 % misses the truth: p-values are corrected for that by Holm's method (Scandinavian Journal
of Statistics 6, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over pairs, in the unit of the values.

    Args:
        mean: Of arm minus base.
        pairs: Seeds that both have.
        interval: Ends of the 95 % confidence interval; None where the pairs say nothing of their spread.
        p_value: Of the t-test that the mean is zero; None without interval.
        holm_p_value: The same, corrected for the number of arms compared; None without interval.
    """

    mean: float
    pairs: int
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    holm_p_value: float | None = None

    @property
    def verdict(self) -> str:
        """What may be said of the difference, in words."""
        if self.interval is None:
            return "one seed: no interval" if self.pairs == 1 else "the same in every seed: no interval"
        low, high = self.interval
        if self.is_distinguishable:
            return f"{'higher' if self.mean > 0 else 'lower'} (Holm p = {self.holm_p_value:.2g})"
        if low <= 0 <= high:
            return "not distinguishable from zero"
        return f"not distinguishable from zero among several arms (Holm p = {self.holm_p_value:.2g})"

    @property
    def is_distinguishable(self) -> bool:
        """Whether the difference is more than noise with as many arms compared; tables and pictures go by this."""
        if self.interval is None or self.holm_p_value is None:
            return False
        low, high = self.interval
        return not low <= 0 <= high and self.holm_p_value <= 1 - CONFIDENCE


def paired_difference(values: Mapping[int, float], base: Mapping[int, float]) -> PairedDifference | None:
    """Compare an arm with the base.

    Args:
        values: Of the arm, by seed.
        base: Of the base, by seed.

    Returns:
        The difference, its p-value not corrected yet; None without a seed in common.
    """
    differences = [values[seed] - base[seed] for seed in values if seed in base]
    if not differences:
        return None
    count, mean = len(differences), math.fsum(differences) / len(differences)
    # Equal differences, as few images give them, are no sign of certainty; neither is one alone.
    if all(math.isclose(difference, differences[0], abs_tol=1e-9) for difference in differences):
        return PairedDifference(mean, count)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return PairedDifference(mean, count, (float(interval.low), float(interval.high)), float(test.pvalue))


def corrected(differences: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return differences with their p-values corrected for their number."""
    tested = [difference.p_value for difference in differences if difference.p_value is not None]
    adjusted = iter(holm(tested))
    return [
        difference if difference.p_value is None else replace(difference, holm_p_value=next(adjusted))
        for difference in differences
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected by Holm's method, in the order given.

    The smallest of n is multiplied by n, the next by n - 1, and so on; none becomes smaller than one before it, nor
    larger than 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
