"""What goes wrong with a report that the user can mend."""

from __future__ import annotations

from mobilemamba.errors import UserError


class ReportError(UserError):
    """A study that cannot be reported; the message names the folder or file, and the remedy."""
