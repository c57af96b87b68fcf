"""Types of command line arguments: each turns a word into a value, or says what would be possible."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Return a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: For a smaller one.
        ValueError: For anything else.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not possible: use 1 or more")
    return value
