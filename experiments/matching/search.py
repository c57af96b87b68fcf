"""The search for widths that cost as much as the reference.

First one factor scales all widths: multiply-accumulates, which cost no time to count, give the first guess; then the
measured costs close in on the reference from both sides. Widths are multiples, so that scaling alone may step over the
reference: single stages then get a multiple wider or narrower, always from the nearest widths known so far.

Measured costs are noisy, and the nearest of many is nearest partly by luck. So widths that seem to match are measured
anew, and only this second measurement counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from experiments.matching.bracket import Bracket
from experiments.matching.cost import Comparison, Measure
from experiments.matching.errors import MatchError
from experiments.matching.widths import Widths, WidthSpace

MAX_SCALES = 8
"""Scales that are measured at most."""

MAX_STEPS = 8
"""Times that single stages are changed at most."""

MAX_COUNTED_SCALES = 12
"""Scales whose multiply-accumulates are counted at most."""

CLOSE_COUNT = 0.02
"""Relative difference of multiply-accumulates that makes a first guess: time differs by more."""

CONFIRMING_EFFORTS = (2, 6)
"""How much longer the measurement takes that decides; the second where the noise of the first is too large."""

Report = Callable[[str, Comparison], None]
"""Is told of every comparison, and what it was for."""


@dataclass
class Search:
    """A search, with what it has found out so far.

    Args:
        space: Possible widths.
        measure: Compares widths with the reference.
        tolerance: Largest difference from the reference, relative.
        report: Is told of every comparison.
    """

    space: WidthSpace
    measure: Measure
    tolerance: float
    report: Report
    known: dict[Widths, Comparison] = field(default_factory=dict)
    confirmed: set[Widths] = field(default_factory=set)
    expanded: set[Widths] = field(default_factory=set)

    def run(self, scale: float) -> Comparison:
        """Search.

        Args:
            scale: First guess.

        Returns:
            The comparison that confirmed the widths.

        Raises:
            MatchError: When no widths match, names the nearest; or when the noise is too large to tell.
        """
        found = self._by_scale(scale) or self._by_single_stages()
        if found is None:
            self._give_up()
        return found

    def _by_scale(self, scale: float) -> Comparison | None:
        smallest, largest = self.space.limits()
        bracket = Bracket()
        for _ in range(MAX_SCALES):
            scale = min(max(scale, smallest), largest)
            widths = self.space.at(scale)
            if widths in self.known or not self.space.is_possible(widths):
                return None  # closer than a multiple
            match = self._try([widths], "scaled")
            if match is not None:
                return match
            excess = self.known[widths].excess
            if scale == (smallest if excess > 0 else largest):
                self._give_up()
            scale = bracket.next_scale(scale, excess)
        return None

    def _by_single_stages(self) -> Comparison | None:
        for _ in range(MAX_STEPS):
            open_ends = [comparison for widths, comparison in self.known.items() if widths not in self.expanded]
            if not open_ends:
                return None
            nearest = min(open_ends, key=_distance)
            self.expanded.add(nearest.widths)
            direction = -1 if nearest.excess > 0 else 1
            candidates = [w for w in self.space.neighbours(nearest.widths, direction) if w not in self.known]
            match = self._try(candidates, "one stage changed") if candidates else None
            if match is not None:
                return match
        return None

    def _try(self, candidates: list[Widths], purpose: str) -> Comparison | None:
        """Measure candidates, and those that seem to match again, the nearest first; return the first that does."""
        for comparison in self.measure(candidates):
            self.known[comparison.widths] = comparison
            self.report(purpose, comparison)
        while (best := self._best_unconfirmed()) is not None:
            comparison = self._measure_anew(best.widths)
            if comparison.within(self.tolerance):
                return comparison
        return None

    def _measure_anew(self, widths: Widths) -> Comparison:
        for effort in CONFIRMING_EFFORTS:
            (comparison,) = self.measure([widths], effort)
            self.report("measured anew", comparison)
            # Where the noise is as large as the tolerance, the figure says nothing.
            if 2 * comparison.noise <= self.tolerance:
                self.known[widths] = comparison
                self.confirmed.add(widths)
                return comparison
        ratio = comparison.cost / comparison.reference_cost
        raise MatchError(
            f"Whether widths {list(widths)} match cannot be told: {ratio:.3f} times the reference's cost has a "
            f"standard error of {comparison.noise:.1%}, more than half of the tolerance of {self.tolerance:.1%}. Use "
            "an idle machine, more --rounds or a wider --tolerance."
        )

    def _best_unconfirmed(self) -> Comparison | None:
        seeming = [
            comparison
            for widths, comparison in self.known.items()
            if widths not in self.confirmed and comparison.within(self.tolerance)
        ]
        return min(seeming, key=_distance, default=None)

    def _give_up(self) -> NoReturn:
        nearest = min(self.known.values(), key=_distance)
        ratio = nearest.cost / nearest.reference_cost
        text = (
            f"No widths match the reference within {self.tolerance:.1%}: {len(self.known)} were measured. The nearest "
            f"are {list(nearest.widths)}, at {ratio:.3f} times the reference's cost, with a standard error of "
            f"{nearest.noise:.1%}. "
        )
        smallest, largest = (self.space.at(scale) for scale in self.space.limits())
        if nearest.widths == smallest and nearest.excess > 0:
            text += "The layout cannot be made cheaper: use a smaller --multiple, or a larger reference."
        elif nearest.widths == largest and nearest.excess < 0:
            text += f"Wider stages than {max(largest)} channels are not tried: use a smaller reference."
        else:
            text += "Use a smaller --multiple or a wider --tolerance."
        raise MatchError(text)


def first_scale(space: WidthSpace, count: Measure) -> float:
    """Return a scale at which multiply-accumulates are near to the reference's.

    Args:
        space: Possible widths.
        count: Compares multiply-accumulates.
    """
    smallest, largest = space.limits()
    bracket, scale = Bracket(), 1.0
    counted: dict[Widths, tuple[float, float]] = {}  # distance and scale
    for _ in range(MAX_COUNTED_SCALES):
        scale = min(max(scale, smallest), largest)
        widths = space.at(scale)
        if widths in counted or not space.is_possible(widths):
            break  # closer than a multiple
        (comparison,) = count([widths])
        counted[widths] = _distance(comparison), scale
        if _distance(comparison) < CLOSE_COUNT:
            break
        scale = bracket.next_scale(scale, comparison.excess)
    return min(counted.values())[1]


def _distance(comparison: Comparison) -> float:
    return abs(comparison.excess)
