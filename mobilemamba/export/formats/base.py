"""What the file formats share, and how their converters are kept quiet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

INPUT, OUTPUT = "images", "logits"
"""What images (B, C, H, W) and logits (B, num_classes) are called in files that name them."""


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Silence Python warnings and the loggers of these names, errors excepted.

    Converters speak of their own insides. They raise what matters, and the comparison shows it.
    """
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in map(logging.getLogger, names):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        yield
