"""One measurement from its options to its table and files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from benchmarks.picture import write_picture
from lightning_modules.receptive_field.errors import ReceptiveFieldError
from lightning_modules.receptive_field.extent import Extent, measure_extent
from lightning_modules.receptive_field.gradient import contribution_map, feature_map
from lightning_modules.receptive_field.images import find_images, noise_image, normalised, read_image
from lightning_modules.receptive_field.networks import RANDOM, Subject, check_name, load_subject
from lightning_modules.receptive_field.picture import draw
from mobilemamba.files import check_writable, write_json
from mobilemamba.tables import table

NOISE_WARNING = (
    "WARNING: measured on random normal images. Trained networks answer to real ones differently: name a folder of "
    "photographs by --images."
)


def measure(options: argparse.Namespace) -> None:
    """Measure every network on the same images, print a table, write a picture and JSON.

    Args:
        options: Of ``mobilemamba erf``.

    Raises:
        CheckpointError: When a file is not what it should be.
        ReceptiveFieldError: When something asked for is not possible; before long work, as far as can be known.
    """
    names = list(dict.fromkeys(options.networks))
    device = _check(options, names)
    checkpoints = _checkpoints(options.checkpoint, names)
    images = _images(options)
    subjects = [load_subject(name, checkpoints.get(name), options.pretrained, options.weights) for name in names]
    for subject in subjects:
        _check_fits(subject, options.image_size)
    if options.images is None:
        print(NOISE_WARNING, file=sys.stderr)

    maps = [_measure(subject, images, options.images is None, device) for subject in subjects]
    extents = [measure_extent(contributions, options.radii) for contributions in maps]
    labels = [f"{subject.name} ({subject.weights})" for subject in subjects]
    source = "random normal images" if options.images is None else f"images from {options.images}"
    heading = f"{len(images)} {source}, {options.image_size} x {options.image_size} pixels"
    print(f"{heading}\n\n{_tables(labels, extents)}\n")
    print("Circles and squares are centred on the median of the contributions; percentages of pixels are of the side.")
    if any(subject.weights == RANDOM for subject in subjects):
        print(
            "Random weights show the receptive field before training: use --pretrained, --checkpoint or a .ckpt file."
        )
    results = [
        {"network": subject.name, "weights": subject.weights, **asdict(extent)}
        for subject, extent in zip(subjects, extents, strict=True)
    ]
    numbers = options.output.with_suffix(".json")
    write_picture(draw(maps, extents, labels, heading), options.output)
    write_json(numbers, {"images": heading, "image_size": options.image_size, "results": results})
    print(f"Written to {options.output} and {numbers}")


def _check(options: argparse.Namespace, names: Sequence[str]) -> torch.device:
    """Check what costs nothing to check; return the device."""
    for option, value in (("count", options.count), ("image-size", options.image_size)):
        if value < 1:
            raise ReceptiveFieldError(f"--{option} {value} is not possible: use a positive number.")
    if min(options.radii) < 0:
        raise ReceptiveFieldError(f"--radii {min(options.radii)} is not possible: use pixels from 0.")
    if options.output.suffix != ".png" or options.output.is_dir():
        raise ReceptiveFieldError(f"--output {options.output} is not possible: name a file that ends in .png.")
    for name in names:
        check_name(name)
    check_writable(options.output.parent)
    try:
        return torch.empty(0, device=options.device).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: a PyTorch without CUDA
        reason = str(error).splitlines()[0]
        raise ReceptiveFieldError(f"--device {options.device} is not possible ({reason}): use cpu.") from error


def _checkpoints(pairs: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Return files by the names of their networks."""
    files = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not path or name not in names or not timm.is_model(name):
            raise ReceptiveFieldError(
                f"--checkpoint {pair} is not possible: write NETWORK=FILE, with a timm name given."
            )
        files[name] = Path(path)
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(f"Checkpoint {file} does not exist.")
    return files


def _images(options: argparse.Namespace) -> list[Tensor]:
    """Return photographs as uint8, or noise as a network takes it."""
    size = options.image_size
    if options.images is None:
        return [noise_image(index, size) for index in range(options.count)]
    return [read_image(file, size) for file in find_images(options.images, options.count)]


def _check_fits(subject: Subject, size: int) -> None:
    """Try an image of the size, before long work on other networks."""
    try:
        with torch.no_grad():
            feature_map(subject.network, torch.zeros(1, 3, size, size))
    except ReceptiveFieldError as error:
        raise ReceptiveFieldError(f"{subject.name} cannot be measured: {error}") from error
    except Exception as error:  # networks refuse sizes by errors of any kind
        raise ReceptiveFieldError(
            f"{subject.name} does not take --image-size {size} ({error}): choose another, such as that of its training."
        ) from error


def _measure(subject: Subject, images: Sequence[Tensor], is_noise: bool, device: torch.device) -> Tensor:
    prepared = (image if is_noise else normalised(image, subject.mean, subject.std) for image in images)
    network = subject.network.to(device).requires_grad_(False)
    progress = track(prepared, subject.name, total=len(images), console=Console(stderr=True))
    try:
        return contribution_map(network, progress)
    except ReceptiveFieldError as error:
        raise ReceptiveFieldError(f"{subject.name} cannot be measured: {error}") from error
    finally:
        network.cpu()  # one network at a time on the device


def _tables(labels: Sequence[str], extents: Sequence[Extent]) -> str:
    """Return shares within circles and sides of squares, one line per network in each."""
    circles = table(
        (
            "share within a circle of radius",
            *(f"{circle.radius} px ({circle.radius_fraction:.0%})" for circle in extents[0].circles),
        ),
        [
            (label, *(f"{circle.share:.1%}" for circle in extent.circles))
            for label, extent in zip(labels, extents, strict=True)
        ],
    )
    squares = table(
        ("side of the smallest square that holds", *(f"{square.share:.0%}" for square in extents[0].squares)),
        [
            (label, *(f"{square.side} px ({square.side_fraction:.0%})" for square in extent.squares))
            for label, extent in zip(labels, extents, strict=True)
        ],
    )
    return f"{circles}\n\n{squares}"
