"""Hides known warnings and log lines of other packages that do not matter here. Everything else is shown."""

from __future__ import annotations

import logging
import warnings

WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # Lightning 2.6 with torch 2.11 and later: Lightning-AI/pytorch-lightning#21326.
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    # Lightning 2.6 compares num_workers with the cores. The Throughput callback measures whether loading is too slow.
    (r".*does not have many workers", UserWarning),
    # Lightning 2.6, in evaluations: the config says which callbacks run, and only fit needs theirs.
    (r".*callbacks used to create the checkpoint need to be provided", UserWarning),
    # Lightning 2.6 with torch 2: float16 skips steps to find a loss scale. Lightning-AI/pytorch-lightning#5558.
    (r"Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`", UserWarning),
    # Lightning 2.6, in a run that is resumed in its folder: another run's is refused, and older curves are kept.
    (r"Checkpoint directory .* exists and is not empty", UserWarning),
    (r"Experiment logs directory .* exists and is not empty", UserWarning),
    # Lightning 2.6, with model.freeze: frozen parts are in eval mode on purpose.
    (r"Found \d+ module\(s\) in eval mode at the start of training", UserWarning),
    # torch 2, 1x1 convolutions and others: strides of dimensions of length 1 do not matter. pytorch/pytorch#157862.
    (r"Grad strides do not match bucket view strides[\s\S]*?grad\.sizes\(\) = \[\d+, \d+(, 1)+\]", UserWarning),
)
"""Beginning (a regular expression) and category of each."""

LINES = (
    "💡 Tip:",  # Lightning 2.6 advertises services
    "TPU available: False",  # Lightning 2.6, in every run
    "Loading `train_dataloader` to estimate number of stepping batches",  # Lightning 2.6, for the schedule's length
)
"""Beginning of each line that Lightning logs."""


def hide_known_warnings() -> None:
    """Hide the listed warnings and lines for the rest of the process."""
    for message, category in WARNINGS:
        warnings.filterwarnings("ignore", message, category)
    # Lightning 2.6 calls methods and options that jsonargparse renamed.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.pytorch\.cli")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not record.getMessage().startswith(LINES)
    )
