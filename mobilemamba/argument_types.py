"""Types of command line arguments: each turns a word into a value, or says what would be possible."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Return a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: For a smaller one.
        ValueError: For anything else.
    """
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """Return a whole number from 0 on; errors as for :func:`positive`."""
    return _at_least(0, text)


def _at_least(smallest: int, text: str) -> int:
    value = int(text)
    if value < smallest:
        raise argparse.ArgumentTypeError(f"{text} is not possible: use {smallest} or more")
    return value
