"""Read weights: the authors' published files and the training checkpoints of this project.

All files are read with ``weights_only=True``: a pickle that carries code is refused, not run.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.checksums import check_file
from mobilemamba.errors import UserError
from mobilemamba.published import STUDENT_PREFIX, WeightSource, adapt_state


def load_published_weights(
    model: MobileMamba, source: str | Path | Mapping[str, Any], weights: WeightSource = "ema"
) -> MobileMamba:
    """Load the authors' weights strictly, fused or not.

    Args:
        model: Network of the same variant, in training form (not fused).
        source: A published file, or its content.
        weights: Which weights to take where the file holds both raw and averaged ones.

    Returns:
        The model.

    Raises:
        UserError: When keys or shapes differ; lists what is missing on either side.
    """
    content = source if isinstance(source, Mapping) else read_file(Path(source))
    state = adapt_state(content, model, weights)
    if not state:
        raise UserError(f"No weights found: the file must hold tensors or 'net'; it holds {sorted(content)[:10]}.")
    load_strictly(model, state)
    return model


def read_file(path: Path) -> dict[str, Any]:
    """Read a .safetensors file or a PyTorch pickle, without running any code in it.

    Raises:
        FileNotFoundError: When there is no such file.
        UserError: When the file is damaged, declares more than its size, or holds more than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Checkpoint {path} does not exist.")
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise UserError(f"Checkpoint {path} is damaged or not a safetensors file: {error}") from error
    check_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"Checkpoint {path} is refused: it is damaged, or holds objects other than tensors and plain values, whose "
            "loading could run code. If you trust it, save its state dict alone with torch.save or safetensors."
        ) from error
    except (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"Checkpoint {path} is damaged or not a PyTorch file: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict of weights.")
    return content


def student_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the network's part of the weights of a training checkpoint, under its own keys."""
    return {key.removeprefix(STUDENT_PREFIX): v for key, v in state.items() if key.startswith(STUDENT_PREFIX)}


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict whose keys and shapes must match; the error lists what is missing on either side."""
    state = adapt_state(state, model)
    differences = mismatches(model, state)
    if differences:
        raise UserError(
            "\n  ".join(["The weights do not fit the model (another variant, or other num_classes?).", *differences])
        )
    model.load_state_dict(state)


def mismatches(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Return the differences between a model and a state dict with the model's names, one line for each kind."""
    own = model.state_dict()
    shapes = [
        f"{key}: file {tuple(state[key].shape)}, model {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]
    lines = []
    for title, entries in (
        ("only in the model", sorted(own.keys() - state.keys())),
        ("only in the file", sorted(state.keys() - own.keys())),
        ("other shapes", shapes),
    ):
        if entries:
            more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
            lines.append(f"{title} ({len(entries)}): {'; '.join(entries[:8])}{more}")
    return lines
