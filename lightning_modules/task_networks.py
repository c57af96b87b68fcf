"""Builds networks of any task from their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from lightning_modules.student import StudentModule
from lightning_modules.tasks import TASKS
from mobilemamba.checkpoints import load_strictly
from mobilemamba.errors import require
from mobilemamba.metadata import ModelMetadata
from mobilemamba.published import WeightSource
from mobilemamba.weights import build_network, find_weights


def load_task_network(
    source: str | Path, kind: WeightSource = "ema", variant: str | None = None
) -> tuple[nn.Module, ModelMetadata]:
    """Build a network in eval mode with its weights, and return it with the metadata of its images.

    The checkpoint's description of the head holds options of the task's module, which builds the network.

    Args:
        source: See :mod:`mobilemamba.weights`.
        kind: Which weights to take where there are averaged and raw ones.
        variant: Published variant of bare weights; see :func:`mobilemamba.weights.find_weights`.

    Raises:
        UserError: When the weights cannot be used, or their network is unknown.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """
    weights = find_weights(source, kind, variant)
    if not weights.head or weights.config is None or weights.metadata is None:
        return build_network(weights)
    options = dict(weights.head)
    task = options.pop("task")
    require(task in TASKS, f"{source}: task", task, f"one of {', '.join(TASKS)}")
    build: Any = TASKS[task].module
    module = build(network=weights.config, image_size=weights.metadata.image_size[0], **options)
    assert isinstance(module, StudentModule)
    load_strictly(module.student, weights.state)
    return module.student.eval(), weights.metadata
