"""Weights and inputs of the golden vectors, drawn per published key so that no weight file is needed."""

import gzip
import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def golden_outputs(variant: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{variant}.npz") as arrays:
        return dict(arrays)


def published_shapes(variant: str) -> dict[str, tuple[int, ...]]:
    with gzip.open(GOLDEN / f"{variant}_keys.json.gz") as file:
        return {key: tuple(shape) for key, shape in json.load(file).items()}


def published_state(variant: str) -> dict[str, Tensor]:
    return {
        key: torch.from_numpy(draw(key, shape).astype(np.float32))
        for key, shape in published_shapes(variant).items()
        if not key.endswith("t_filter")
    }


def golden_input(batch: int, height: int, width: int) -> Tensor:
    rng = np.random.default_rng([7, 0])
    return torch.from_numpy(rng.standard_normal((batch, 3, height, width)).astype(np.float32))


def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(key.encode()), 0])
    leaf = key.rpartition(".")[2]
    match leaf:
        case "num_batches_tracked":
            return np.zeros(shape)
        case "running_var":
            return rng.uniform(0.5, 1.5, shape)
        case "running_mean" | "bias":
            return 0.1 * rng.standard_normal(shape)
        case "A_logs":
            return rng.uniform(-1, 1, shape)
        case "Ds":
            return rng.uniform(0.5, 1.5, shape)
        case "dt_projs_bias":
            return rng.uniform(-4, 0, shape)
        case "dt_projs_weight":
            return 0.5 * rng.standard_normal(shape) / math.sqrt(shape[-1])
        case "x_proj_weight":
            return rng.standard_normal(shape) / math.sqrt(shape[-1])
    if "scale" in key:
        return rng.uniform(0.5, 1.5, shape)
    if leaf == "weight" and len(shape) == 1:
        return rng.uniform(0.2, 0.6, shape)
    return rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))


def published_direction(key: str, shape: tuple[int, ...], direction: int) -> np.ndarray:
    """Return a direction in the space of weights and statistics, of length about 1 for each key."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), 0, 1000 + direction])
    return np.asarray(rng.standard_normal(shape) / math.sqrt(math.prod(shape)))
