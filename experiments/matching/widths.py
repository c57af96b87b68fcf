"""The widths that a layout may have: multiples of some number, near given proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from experiments.matching.errors import MatchError
from mobilemamba.config import MobileMambaConfig

Widths = tuple[int, ...]

LARGEST_WIDTH = 2048
"""Channels of the widest stage that is tried: such a network has hundreds of millions of parameters."""

_SMALLEST_STEP = 1.01
"""Factor between the scales that are tried to find the smallest possible network."""


@dataclass(frozen=True)
class WidthSpace:
    """Possible widths of a layout.

    Args:
        network: The layout; its widths are the proportions, at scale 1.
        multiple: Every width is a multiple of this; that of the first stage also of what the stem demands.
    """

    network: MobileMambaConfig
    multiple: int

    def at(self, scale: float) -> Widths:
        """Return the proportions times a scale, each rounded to its multiple, at least one multiple."""
        return tuple(
            max(round(scale * width / multiple), 1) * multiple
            for width, multiple in zip(self.network.widths, self.multiples, strict=True)
        )

    def neighbours(self, widths: Widths, direction: int) -> list[Widths]:
        """Return the possible widths with one stage a multiple wider (direction 1) or narrower (-1)."""
        changed = (
            (*widths[:stage], widths[stage] + direction * multiple, *widths[stage + 1 :])
            for stage, multiple in enumerate(self.multiples)
        )
        return [candidate for candidate in changed if self.is_possible(candidate)]

    def is_possible(self, widths: Widths) -> bool:
        """Return whether a network can have these widths."""
        if min(widths) < 1 or max(widths) > LARGEST_WIDTH:
            return False
        try:
            self.config(widths)
        except ValueError:
            return False
        return True

    def config(self, widths: Widths) -> MobileMambaConfig:
        """Return the layout with these widths.

        Raises:
            ValueError: When it cannot have them.
        """
        return replace(self.network, widths=widths)

    @property
    def multiples(self) -> Widths:
        """The multiple of each stage's width."""
        stem = self.network.stem_stride // 2  # the stem doubles its width with every stride of 2
        return math.lcm(self.multiple, stem), *(self.multiple for _ in self.network.widths[1:])

    def limits(self) -> tuple[float, float]:
        """Return the scales of the smallest and the largest possible network.

        Raises:
            MatchError: When no scale is possible.
        """
        largest = LARGEST_WIDTH / max(self.network.widths)
        scale = min(multiple / width for multiple, width in zip(self.multiples, self.network.widths, strict=True))
        while not self.is_possible(self.at(scale)):
            scale *= _SMALLEST_STEP
            if scale > largest:
                raise MatchError(
                    f"No widths in proportion {self.network.widths}, multiples of {self.multiple} and at most "
                    f"{LARGEST_WIDTH}, are possible for this layout: use a smaller --multiple."
                )
        while not self.is_possible(self.at(largest)):  # rounded up
            largest /= _SMALLEST_STEP
        return scale, largest
