"""The one class of errors that are written for users."""

from __future__ import annotations


class UserError(ValueError):
    """Something given by the user cannot be used; the message names the field, the value and the remedy.

    The commands print such errors as one line. Any other error is a fault in the code and keeps its traceback.
    """


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Refuse a value that is not allowed.

    Args:
        condition: Whether it is allowed.
        field: What the user set, such as "optimizer.weight_decay".
        value: What it was set to.
        allowed: What it must be, such as "at least 1".

    Raises:
        UserError: When the condition does not hold.
    """
    if not condition:
        raise UserError(f"{field} = {value!r} must be {allowed}.")
