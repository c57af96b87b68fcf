"""What goes wrong with a match that the user can mend."""

from __future__ import annotations


class MatchError(ValueError):
    """A match that cannot be made as asked; the message names the value and the remedy, or the nearest widths."""
