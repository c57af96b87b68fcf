"""Differences between two arms whose runs share their seeds, with confidence intervals.

Two runs with the same seed share the order of the data and the random numbers, as far as the arms allow; the difference
within pairs has less noise than that of two means. The interval is Student's t over seeds. With many arms one in twenty
95 % intervals misses the truth, so p-values are corrected by Holm's method (Scandinavian Journal of Statistics 6,
1979).
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95


def paired_differences(values: pd.DataFrame, base: str) -> pd.DataFrame:
    """Compare arms with the base.

    Args:
        values: A row per seed, a column per arm; missing where a run has no value.
        base: Column of the base.

    Returns:
        A row for each other arm that shares a seed with the base: the mean ``difference`` in the unit of the values,
        its 95 % interval from ``difference_low`` to ``difference_high``, the number of ``pairs``, the ``p_value`` of
        the t-test that the mean is zero, the ``holm_p_value``, corrected for the number of arms, the ``verdict`` in
        words, and whether the difference ``is_distinguishable`` from noise. Interval and p-values are missing if the
        pairs have no spread.
    """
    rows = {}
    for arm in values.columns.drop(base):
        found = (values[arm] - values[base]).dropna()
        if found.empty:
            continue
        low = high = p_value = math.nan
        # Equal differences, as with few images, or a single one, do not mean certainty.
        if not np.allclose(found, found.iloc[0], rtol=1e-9, atol=1e-9):
            test = stats.ttest_1samp(found.to_numpy(), 0.0)
            low, high = test.confidence_interval(CONFIDENCE)
            p_value = test.pvalue
        rows[arm] = (found.mean(), low, high, len(found), p_value)
    columns = ["difference", "difference_low", "difference_high", "pairs", "p_value"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    table["holm_p_value"] = holm(table["p_value"])
    tested = table[["difference", "difference_low", "difference_high", "pairs", "holm_p_value"]]
    verdicts = [verdict(*row) for row in tested.itertuples(index=False)]
    table["verdict"] = [words for words, _ in verdicts]
    table["is_distinguishable"] = [sure for _, sure in verdicts]
    return table


def holm(p_values: pd.Series) -> pd.Series:
    """Return p-values corrected by Holm's method; missing ones stay missing and do not count.

    The smallest of n is multiplied by n, the next by n - 1, and so on; the results never fall and are at most 1.
    """
    ordered = p_values.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).clip(upper=1.0).cummax().reindex(p_values.index)


def verdict(difference: float, low: float, high: float, pairs: int, holm_p_value: float) -> tuple[str, bool]:
    """Return the verdict on a difference in words, and whether it is more than noise.

    Args:
        difference: Mean of arm minus base.
        low: Lower end of its interval; NaN without an interval.
        high: Upper end.
        pairs: Number of common seeds.
        holm_p_value: Corrected p-value.
    """
    if math.isnan(low):
        return ("one seed: no interval" if pairs == 1 else "the same in every seed: no interval"), False
    if low <= 0 <= high:
        return "not distinguishable from zero", False
    if holm_p_value > 1 - CONFIDENCE:
        return f"not distinguishable from zero among several arms (Holm p = {holm_p_value:.2g})", False
    return f"{'higher' if difference > 0 else 'lower'} (Holm p = {holm_p_value:.2g})", True
