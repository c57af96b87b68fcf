"""A classifier by one name: weights of any source, or an exported file of any format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mobilemamba.environment import find_device
from mobilemamba.errors import UserError
from mobilemamba.export.formats import FORMATS, load, read_metadata
from mobilemamba.metadata import ModelMetadata
from mobilemamba.published import WeightSource
from mobilemamba.weights import load_network


@dataclass(frozen=True)
class Classifier:
    """A function that classifies images, and how to use it.

    Args:
        run: Maps prepared images (B, 3, H, W) in float32 to logits (B, classes), both on the CPU.
        metadata: How images are prepared, and the classes' names.
    """

    run: Callable[[Tensor], Tensor]
    metadata: ModelMetadata

    def class_name(self, index: int) -> str:
        """Return the name of an output, or its number where names are not known."""
        return self.metadata.readable_class(index)


def open_classifier(
    source: str, kind: WeightSource = "ema", variant: str | None = None, device: str = "cpu"
) -> Classifier:
    """Open weights or an exported file.

    Args:
        source: See :mod:`mobilemamba.weights`, or the path of an exported file, known by its suffix.
        kind: Averaged or raw weights, where there are both.
        variant: Published variant of ``published`` weights and bare state dicts.
        device: Where weights are run; exported files run where their runtime does, on the CPU.

    Raises:
        UserError: When it cannot be opened, has no metadata, or does not take RGB images.
        FileNotFoundError: When there is no such file.
        ConnectionError: When the Hub cannot be reached.
    """
    path = Path(source).expanduser()
    if path.suffix in {form.suffix for form in FORMATS.values()}:
        return _open_file(path)
    where = find_device(device)
    network, metadata = load_network(source, kind, variant)
    if network.in_chans != 3:
        raise UserError(f"weights = {source!r} take images of {network.in_chans} channels: they must take 3 (RGB).")
    if not network.num_classes:
        raise UserError(f"weights = {source!r} have no classifier: `mobilemamba embed` gives their features.")
    network = network.to(where)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(images.to(where)).float().cpu()

    return Classifier(run, metadata)


def _open_file(path: Path) -> Classifier:
    if not path.exists():
        raise FileNotFoundError(f"Exported file {path} does not exist.")
    try:
        run, metadata = load(path), read_metadata(path)
    except UserError:
        raise
    # Every runtime raises errors of its own for files that it cannot read.
    except Exception as error:
        raise UserError(
            f"{path} cannot be opened, or has no metadata of this project about how images are prepared: "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error
    return Classifier(_in_batches(run, metadata), metadata)


def _in_batches(run: Callable[[Tensor], Tensor], metadata: ModelMetadata) -> Callable[[Tensor], Tensor]:
    """Let a file that takes single images take batches; one that takes batches is run as it is."""
    probe = torch.zeros(2, 3, *metadata.image_size)
    try:
        with torch.inference_mode():
            run(probe)
    # Runtimes differ in what they raise for another shape.
    except Exception:
        return lambda images: torch.cat([run(images[index : index + 1].clone()) for index in range(len(images))])
    return lambda images: run(images)
