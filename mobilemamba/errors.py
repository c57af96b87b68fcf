"""The one class of errors that are written for users."""

from __future__ import annotations


class UserError(ValueError):
    """Something given by the user cannot be used; the message names the field, the value and the remedy.

    The commands print such errors as one line. Any other error is a fault in the code and keeps its traceback.
    """
