"""What can go wrong in an export, apart from errors of the operating system."""

from __future__ import annotations

from mobilemamba.errors import UserError


class ExportError(UserError):
    """The export cannot be done as asked; the message names the value and the remedy."""


class NotComparedWarning(UserWarning):
    """A file was written without comparison: this system cannot run it."""


class ParityError(ExportError):
    """A network and the form made from it give different answers; no file is left."""
