"""The possible widths of a layout: multiples of a number, near given proportions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from mobilemamba.config import MobileMambaConfig
from mobilemamba.errors import UserError

Widths = tuple[int, ...]

LARGEST_WIDTH = 2048
"""Largest width that is tried; such a network has hundreds of millions of parameters."""


@dataclass(frozen=True)
class WidthSpace:
    """Possible widths of a layout.

    Args:
        network: The layout; its widths are the proportions, at scale 1.
        multiple: Every width is a multiple of this; the first stage's also of the stem's smallest width.
    """

    network: MobileMambaConfig
    multiple: int

    @property
    def multiples(self) -> Widths:
        """The multiple of each stage's width."""
        stem = self.network.stem_stride // 2  # the stem doubles its width with every stride of 2
        return math.lcm(self.multiple, stem), *(self.multiple for _ in self.network.widths[1:])

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
        except UserError:
            return False
        return True

    def config(self, widths: Widths) -> MobileMambaConfig:
        """Return the layout with these widths.

        Raises:
            UserError: When these widths are not possible.
        """
        return replace(self.network, widths=widths)

    def limits(self) -> tuple[float, float]:
        """Return the scales of the smallest and the largest possible network.

        Raises:
            UserError: When no scale is possible.
        """
        smallest = min(m / width for m, width in zip(self.multiples, self.network.widths, strict=True))
        largest = LARGEST_WIDTH / max(self.network.widths)
        scales = np.geomspace(smallest, largest, 1000).tolist()
        possible = [scale for scale in scales if self.is_possible(self.at(scale))]
        if not possible:
            raise UserError(
                f"No widths in proportion {self.network.widths}, multiples of {self.multiple} and at most "
                f"{LARGEST_WIDTH}, are possible for this layout: use a smaller --multiple."
            )
        return possible[0], possible[-1]
