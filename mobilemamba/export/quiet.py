"""Converters without their remarks on their own insides: they raise what matters, and the comparison shows it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silence Python warnings and the loggers of these names, errors excepted."""
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in map(logging.getLogger, names):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield
