"""What goes wrong with a match that the user can mend."""

from __future__ import annotations

from mobilemamba.errors import UserError


class MatchError(UserError):
    """A match that cannot be made as asked; the message names the value and the remedy, or the nearest widths."""
