"""The search for widths that cost as much as the reference.

One factor scales all widths. Bisection finds it, first for multiply-accumulates, which are quick to count, then for the
measured cost around that guess. Widths are multiples of a number, so scaling alone may miss the reference: then single
stages get one multiple wider or narrower, always starting from the nearest widths so far.

Measured costs have errors, and the nearest of many is nearest partly by luck. So widths that seem to match are measured
again, and only this second measurement counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import NoReturn

from scipy.optimize import bisect

from experiments.matching.cost import Comparison, Measure
from experiments.matching.widths import Widths, WidthSpace
from mobilemamba.errors import UserError

BISECTIONS = 8
"""Number of halvings of the interval of scales."""

SINGLE_STAGE_STEPS = 8
"""Largest number of steps that change single stages."""

CONFIRMING_FACTORS = (2, 6)
"""Factors on the rounds of the second measurement; the larger one is used if the error is too large with the first."""


class _Found(Exception):
    """Ends the search with the comparison that confirmed some widths."""


class Search:
    """A search, with the comparisons so far.

    Args:
        space: Possible widths.
        measure: Compares widths with the reference.
        tolerance: Largest difference from the reference, relative.
        report: Called with the purpose of each comparison and the comparison.
    """

    def __init__(
        self, space: WidthSpace, measure: Measure, tolerance: float, report: Callable[[str, Comparison], None]
    ) -> None:
        self.space, self.measure, self.tolerance, self.report = space, measure, tolerance, report
        self.known: dict[Widths, Comparison] = {}
        self.confirmed: set[Widths] = set()

    def run(self, guess: float) -> Comparison:
        """Search from a scale on.

        Returns:
            The comparison that confirmed the widths.

        Raises:
            UserError: When no widths match, with the nearest; or when the error is too large to decide.
        """
        try:
            self._by_scale(guess)
            self._by_single_stages()
            self._give_up()
        except _Found as found:
            comparison: Comparison = found.args[0]
            return comparison

    def _by_scale(self, guess: float) -> None:
        low, high = (math.log(limit) for limit in self.space.limits())

        def excess(log_scale: float) -> float:
            widths = self.space.at(math.exp(log_scale))
            if widths not in self.known and self.space.is_possible(widths):
                self._try([widths], "scaled")
            return math.log(self.known[widths].relative_cost) if widths in self.known else 0.0

        # The interval around the guess grows until it contains the reference.
        start = min(max(math.log(guess), low), high)
        value, reach = excess(start), 0.1
        if value == 0:
            return
        end = start
        while excess(end) * value > 0 and end not in (low, high):
            end = max(start - reach, low) if value > 0 else min(start + reach, high)
            reach *= 2
        if excess(end) * value > 0:
            self._give_up()
        bisect(excess, start, end, maxiter=BISECTIONS, disp=False)

    def _by_single_stages(self) -> None:
        expanded: set[Widths] = set()
        for _ in range(SINGLE_STAGE_STEPS):
            nearest = min(
                (c for w, c in self.known.items() if w not in expanded), key=attrgetter("distance"), default=None
            )
            if nearest is None:
                return
            expanded.add(nearest.widths)
            direction = -1 if nearest.relative_cost > 1 else 1
            candidates = [w for w in self.space.neighbours(nearest.widths, direction) if w not in self.known]
            if candidates:
                self._try(candidates, "one stage changed")

    def _try(self, candidates: list[Widths], purpose: str) -> None:
        """Measure candidates, and those that seem to match again, the nearest first; end the search with a match."""
        for comparison in self.measure(candidates, 1):
            self.known[comparison.widths] = comparison
            self.report(purpose, comparison)
        while seeming := [c for w, c in self.known.items() if w not in self.confirmed and c.within(self.tolerance)]:
            comparison = self._confirm(min(seeming, key=attrgetter("distance")).widths)
            if comparison.within(self.tolerance):
                raise _Found(comparison)

    def _confirm(self, widths: Widths) -> Comparison:
        for factor in CONFIRMING_FACTORS:
            (comparison,) = self.measure([widths], factor)
            self.report("measured again", comparison)
            # With an error as large as the tolerance, the result proves nothing.
            if 2 * comparison.standard_error <= self.tolerance:
                self.known[widths] = comparison
                self.confirmed.add(widths)
                return comparison
        raise UserError(
            f"Cannot decide whether widths {list(widths)} match: {comparison.relative_cost:.3f} times the reference's "
            f"cost has a standard error of {comparison.standard_error:.1%}, more than half of the tolerance of "
            f"{self.tolerance:.1%}. Use an idle machine, more --rounds or a wider --tolerance."
        )

    def _give_up(self) -> NoReturn:
        nearest = min(self.known.values(), key=attrgetter("distance"))
        text = (
            f"No widths match the reference within {self.tolerance:.1%}: {len(self.known)} were measured. The nearest "
            f"are {list(nearest.widths)}, at {nearest.relative_cost:.3f} times the reference's cost, with a standard "
            f"error of {nearest.standard_error:.1%}. "
        )
        smallest, largest = (self.space.at(scale) for scale in self.space.limits())
        if nearest.widths == smallest and nearest.relative_cost > 1:
            text += "The layout cannot be made cheaper: use a smaller --multiple, or a larger reference."
        elif nearest.widths == largest and nearest.relative_cost < 1:
            text += f"Wider stages than {max(largest)} channels are not tried: use a smaller reference."
        else:
            text += "Use a smaller --multiple or a wider --tolerance."
        raise UserError(text)


def first_scale(space: WidthSpace, count: Measure) -> float:
    """Return a scale at which multiply-accumulates are close to the reference's.

    Args:
        space: Possible widths.
        count: Compares multiply-accumulates.
    """
    low, high = (math.log(limit) for limit in space.limits())

    def excess(log_scale: float) -> float:
        widths = space.at(math.exp(log_scale))
        return math.log(count([widths], 1)[0].relative_cost) if space.is_possible(widths) else 0.0

    with suppress(ValueError):  # the reference is outside the limits
        return math.exp(bisect(excess, low, high, xtol=0.01, maxiter=12, disp=False))
    return math.exp(low if excess(low) > 0 else high)
