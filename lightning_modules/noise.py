"""What Lightning and torch say in every run that is of no use to whoever runs it; everything else is passed on."""

from __future__ import annotations

import logging
import warnings

WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # Lightning 2.6 with torch 2.11 and later.
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    # Lightning guesses from the number of cores; the Throughput callback measures whether the loader is too slow.
    (r".*does not have many workers", UserWarning),
    # Which callbacks run is said by the config, and evaluations need none of those of fit.
    (r".*callbacks used to create the checkpoint need to be provided", UserWarning),
    # float16 training leaves out its first steps in search of the loss scale.
    (r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`", UserWarning),
    # Weights of 1x1 convolutions: strides of dimensions of length 1 mean nothing.
    (r"Grad strides do not match bucket view strides[\s\S]*?grad\.sizes\(\) = \[\d+, \d+, 1, 1\]", UserWarning),
)
"""Beginning (a regular expression) and category of each."""

LINES = (
    "💡 Tip:",  # advertisements of services
    "TPU available: False",
    "Loading `train_dataloader` to estimate number of stepping batches",
)
"""Beginning of each line that Lightning logs."""


def silence() -> None:
    """Leave out what is listed here, for the rest of the process."""
    for message, category in WARNINGS:
        warnings.filterwarnings("ignore", message, category)
    # Lightning 2.6 calls methods that jsonargparse 4.49 has renamed.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.pytorch\.cli")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_of_use)


def is_of_use(record: logging.LogRecord) -> bool:
    """Return whether a line is worth reading."""
    return not record.getMessage().startswith(LINES)
