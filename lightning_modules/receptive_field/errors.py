"""What can go wrong in measuring a receptive field, apart from errors of the operating system."""

from __future__ import annotations

from mobilemamba.errors import UserError


class ReceptiveFieldError(UserError):
    """The measurement cannot be done as asked; the message names the value and the remedy."""
