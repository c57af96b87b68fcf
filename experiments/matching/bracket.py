"""Closing in on the scale whose cost is the reference's, from both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

COST_EXPONENT = 1.5
"""How cost is taken to grow with the scale, before both sides are known: its square is more than time follows."""

MARGIN = 0.1
"""Share of the interval that the next scale keeps from its ends: noise may put the reference beside one."""


class Point(NamedTuple):
    """A scale and the logarithm of its cost relative to the reference."""

    scale: float
    excess: float


@dataclass
class Bracket:
    """The last scale on each side of the reference.

    Args:
        below: Costs less than the reference.
        above: Costs more.
    """

    below: Point | None = None
    above: Point | None = None

    def next_scale(self, scale: float, excess: float) -> float:
        """Take in a measured scale and return the one to try next.

        That is on the line between both sides, cost and scale in logarithms, or beyond the one side that is known.

        Args:
            scale: What was measured.
            excess: Logarithm of its cost relative to the reference.
        """
        if excess > 0:
            self.above = Point(scale, excess)
        else:
            self.below = Point(scale, excess)
        if self.below is None or self.above is None:
            return scale * math.exp(-excess / COST_EXPONENT)
        share = -self.below.excess / (self.above.excess - self.below.excess)
        share = min(max(share, MARGIN), 1 - MARGIN)
        return self.below.scale * (self.above.scale / self.below.scale) ** share
