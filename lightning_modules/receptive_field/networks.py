"""Loads networks to measure by timm names or training checkpoints of this project."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.checkpoints import load_published_weights, load_strictly, read_file
from mobilemamba.errors import UserError
from mobilemamba.published import WeightSource, split_checkpoint
from mobilemamba.weights import load_network as load_mobilemamba

RANDOM = "random"
"""Weights of a :class:`MeasuredNetwork` that was never trained."""


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network in eval mode, on the CPU, and how its images are normalised.

    Args:
        name: timm's name, or the checkpoint's path, as given.
        weights: Description of the weights' source.
        network: A timm model.
        mean: Subtracted per channel, for images in [0, 1].
        std: Divided by per channel, after the mean.
    """

    name: str
    weights: str
    network: nn.Module
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD


def check_name(name: str) -> None:
    """Check that a name is a timm name or the path of an existing checkpoint.

    Raises:
        UserError: When it is not; suggests similar names.
    """
    if timm.is_model(name) or Path(name).is_file() or name.startswith(("hf-hub:", "local-dir:")):
        return
    if Path(name).suffix == ".ckpt" or len(Path(name).parts) > 1:
        raise UserError(f"Checkpoint {name} does not exist.")
    similar = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
    remedy = f"similar names are {', '.join(similar)}" if similar else "timm.list_models() gives all names"
    raise UserError(f"Network {name!r} must be a name of timm or a checkpoint file: {remedy}.")


def load_network(
    name: str, checkpoint: Path | None = None, pretrained: bool = False, weights: WeightSource = "ema"
) -> MeasuredNetwork:
    """Build a network with its weights.

    Args:
        name: timm's name, or the path of a training checkpoint of this project.
        checkpoint: Weights for a timm name: published ones for a MobileMamba, a state dict of timm's layout for others.
        pretrained: Whether a timm name without checkpoint takes timm's pretrained weights.
        weights: Averaged or raw, where a file holds both.

    Raises:
        UserError: When a file does not fit, timm cannot build the network, or it does not take colour images.
    """
    if not timm.is_model(name):
        student, metadata = load_mobilemamba(name, weights)
        if student.in_chans != 3:
            raise UserError(f"{name} takes images of {student.in_chans} channels: it must take 3 (RGB).")
        return MeasuredNetwork(name, f"checkpoint, {weights}", student, metadata.mean, metadata.std)
    pretrained = pretrained and checkpoint is None
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same random weights each time
            network = timm.create_model(name, pretrained=pretrained).eval()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"timm cannot build {name} with pretrained = {pretrained}: {error}") from error
    if checkpoint is not None:
        _load_weights(network, checkpoint, weights)
    source = f"{checkpoint.name}, {weights}" if checkpoint else "pretrained" if pretrained else RANDOM
    return MeasuredNetwork(name, source, network, network.pretrained_cfg["mean"], network.pretrained_cfg["std"])


def _load_weights(network: nn.Module, path: Path, weights: WeightSource) -> None:
    if isinstance(network, MobileMamba):
        load_published_weights(network, path, weights)
        return
    raw, averaged = split_checkpoint(read_file(path))
    load_strictly(network, averaged if averaged is not None and weights == "ema" else raw)
