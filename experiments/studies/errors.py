"""What can go wrong in a study, apart from errors of the operating system."""

from __future__ import annotations

from mobilemamba.errors import UserError


class StudyError(UserError):
    """A study that cannot be run as asked, or did not end well; the message names field, value and remedy."""
