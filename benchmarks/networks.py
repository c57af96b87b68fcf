"""Networks by timm name, MobileMambas included, and their timed forward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import timm
import torch
import torch._dynamo
from timm.utils import reparameterize_model
from torch import Tensor, nn

from mobilemamba.backbone import MobileMamba
from mobilemamba.errors import UserError, require
from mobilemamba.fusion import fuse
from mobilemamba.weights import load_network

Result = TypeVar("Result")

MOST_COMPILED = 256
"""Limit of compiled forms of one function; the second limit of torch.compile is as large by default."""


@dataclass(frozen=True)
class Candidate:
    """A network in eval mode and the images it is made for.

    Args:
        name: timm's name.
        network: Its weights are random, which does not change the time.
        image_shape: (C, H, W).
        context: Entered whenever the network runs.
    """

    name: str
    network: nn.Module
    image_shape: tuple[int, int, int]
    context: Callable[[], AbstractContextManager[None]] = nullcontext

    def images(self, batch_size: int, device: torch.device) -> Tensor:
        """Return normal noise, (B, C, H, W)."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch_size, *self.image_shape, generator=generator).to(device)

    def answer(self, images: Tensor) -> Tensor:
        """Return the network's logits (B, num_classes) for images.

        Raises:
            UserError: When it does not take images of this size.
        """
        try:
            return self.run(inference_call(self.network, images))
        except (RuntimeError, ValueError, AssertionError) as error:
            height, width = images.shape[2:]
            raise UserError(
                f"{self.name} does not take images of {height}x{width} pixels: {str(error).splitlines()[0]}"
            ) from error

    def run(self, call: Callable[[], Result]) -> Result:
        """Call a function inside the context."""
        with self.context():
            return call()


def build(name: str, device: torch.device, image_size: Sequence[int] | None = None) -> Candidate:
    """Build a network.

    Args:
        name: timm's, or weights of a MobileMamba (:mod:`mobilemamba.weights`).
        device: Where it runs.
        image_size: Height and width in pixels, or one number for both. None: the published size.

    Raises:
        UserError: When timm knows no network of this name, or image_size is not one or two numbers.
    """
    require(image_size is None or len(image_size) in (1, 2), "--image-size", image_size, "one number or two")
    if Path(name).is_file() or name.startswith(("hf-hub:", "local-dir:")):
        network, metadata = load_network(name)
        height, width = (image_size[0], image_size[-1]) if image_size else metadata.image_size
        return Candidate(name, network.to(device), (network.in_chans, height, width))
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:10]) or "see timm.list_models()"
        raise UserError(f"Network {name!r} is unknown to timm; similar names: {close}.")
    network = timm.create_model(name).to(device).eval()
    channels, height, width = network.pretrained_cfg["input_size"]
    height, width = (image_size[0], image_size[-1]) if image_size else (height, width)
    return Candidate(name, network, (channels, height, width))


def fused(network: nn.Module) -> nn.Module:
    """Return a copy with all norms folded, by the network's own method."""
    if isinstance(network, MobileMamba):
        return fuse(network)
    return reparameterize_model(network).eval()


def inference_call(network: Callable[[Tensor], Tensor], images: Tensor, autocast: bool = False) -> Callable[[], Tensor]:
    """Return the function to time: one forward pass in inference mode.

    Args:
        network: In eval mode, compiled or not.
        images: (B, C, H, W).
        autocast: Whether it runs in bfloat16, as far as the device's mixed precision allows.
    """

    def call() -> Tensor:
        with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            return network(images)

    return call


@contextmanager
def all_compiled(limit: int = MOST_COMPILED) -> Iterator[None]:
    """Allow so many compiled networks of one class; one more raises ``torch._dynamo.exc.FailOnRecompileLimitHit``.

    Networks of one class share the code of their forward pass. By default torch.compile keeps eight compiled forms of
    it and runs the ninth network uncompiled, with only a line in the log.
    """
    with torch._dynamo.config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
        yield
