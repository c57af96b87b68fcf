"""``mobilemamba erf``: effective receptive fields of networks, side by side as a picture, a table and JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from lightning_modules.figures import write_figure
from lightning_modules.receptive_field.extent import Extent, measure_extent
from lightning_modules.receptive_field.gradient import contribution_map, feature_map
from lightning_modules.receptive_field.networks import RANDOM, MeasuredNetwork, check_name, load_network
from lightning_modules.receptive_field.picture import draw
from mobilemamba.environment import find_device
from mobilemamba.errors import UserError, require
from mobilemamba.files import check_writable, write_json
from mobilemamba.images import evenly_spaced, find_images, open_image
from mobilemamba.published import WeightSource
from mobilemamba.tables import table

NOISE_WARNING = (
    "WARNING: measured on random normal images. Results of trained networks differ on real ones: give a folder of "
    "photographs with --images."
)


def erf(
    networks: list[str],
    images: Path | None = None,
    count: PositiveInt = 50,
    image_size: PositiveInt = 256,
    checkpoint: list[str] | None = None,
    weights: WeightSource = "ema",
    pretrained: bool = False,
    radii: list[NonNegativeInt] = [8, 16, 32, 64, 128],  # noqa: B006
    output: Path = Path("runs/erf.png"),
    device: str = "cpu",
) -> None:
    """Draw and measure effective receptive fields of networks, side by side.

    Args:
        networks: timm names and checkpoints of `lightning fit`.
        images: Folder of photographs, in any depth of folders. Null: random normal images.
        count: Images to measure on.
        image_size: Height and width in pixels, the same for all networks; a multiple of the usual strides is best.
        checkpoint: Weights for one of the timm names, such as published ones, as NETWORK=FILE; may be repeated.
        weights: Averaged or raw weights of checkpoints.
        pretrained: Use timm's pretrained weights for timm names; otherwise weights are random and show the receptive
            field before training.
        radii: Radii in pixels of circles whose shares are printed.
        output: Picture to write, with a .json beside it.
        device: PyTorch device.

    Raises:
        UserError: When an option cannot be used or a network cannot be measured; before long work, where possible.
    """
    names = list(dict.fromkeys(networks))
    require(output.suffix == ".png" and not output.is_dir(), "--output", str(output), "a file that ends in .png")
    for name in names:
        check_name(name)
    check_writable(output.parent)
    place, files = find_device(device), _checkpoints(checkpoint or [], names)
    pictures = _pictures(images, count, image_size)
    measured = [load_network(name, files.get(name), pretrained, weights) for name in names]
    for network in measured:
        _check_fits(network, image_size)
    if images is None:
        print(NOISE_WARNING, file=sys.stderr)

    maps = [_measure(network, pictures, images is None, place) for network in measured]
    extents = [measure_extent(contributions, radii) for contributions in maps]
    labels = [f"{network.name} ({network.weights})" for network in measured]
    source = "random normal images" if images is None else f"images from {images}"
    heading = f"{len(pictures)} {source}, {image_size} x {image_size} pixels"
    print(f"{heading}\n\n{_tables(labels, extents)}\n")
    print("Circles and squares are centred on the median of the contributions; percentages of pixels are of the side.")
    if any(network.weights == RANDOM for network in measured):
        print(
            "Random weights show the receptive field before training: use --pretrained, --checkpoint or a .ckpt file."
        )
    results = [
        {"network": network.name, "weights": network.weights, **asdict(extent)}
        for network, extent in zip(measured, extents, strict=True)
    ]
    numbers = output.with_suffix(".json")
    write_figure(draw(maps, labels, heading), output)
    write_json(numbers, {"images": heading, "image_size": image_size, "results": results})
    print(f"Written to {output} and {numbers}")


def _checkpoints(pairs: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """Return files by the names of their networks."""
    files = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        is_known = bool(path) and name in names and timm.is_model(name)
        require(is_known, "--checkpoint", pair, "NETWORK=FILE, with a timm name given")
        if not Path(path).is_file():
            raise UserError(f"Checkpoint {path} does not exist.")
        files[name] = Path(path)
    return files


def _pictures(folder: Path | None, count: int, size: int) -> list[Tensor]:
    """Return the largest central squares of photographs, resized, in uint8; or normalised noise."""
    if folder is None:
        generators = (torch.Generator().manual_seed(index) for index in range(count))
        return [torch.randn(3, size, size, generator=generator) for generator in generators]
    files = evenly_spaced(find_images(folder, "--images"), count)
    return [pil_to_tensor(ImageOps.fit(open_image(file), (size, size), Image.Resampling.BICUBIC)) for file in files]


def _check_fits(network: MeasuredNetwork, size: int) -> None:
    """Try an image of this size before any long work."""
    try:
        with torch.no_grad():
            feature_map(network.network, torch.zeros(1, 3, size, size))
    except Exception as error:  # networks refuse sizes with errors of any kind
        raise UserError(
            f"{network.name} cannot be measured at --image-size {size}: {error} Choose another size or network."
        ) from error


def _measure(measured: MeasuredNetwork, images: Sequence[Tensor], is_noise: bool, device: torch.device) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in (measured.mean, measured.std))
    prepared = (image if is_noise else (image / 255 - mean) / std for image in images)
    network = measured.network.to(device).requires_grad_(False)
    try:
        return contribution_map(network, track(prepared, measured.name, len(images), console=Console(stderr=True)))
    except UserError as error:
        raise UserError(f"{measured.name} cannot be measured: {error}") from error
    finally:
        network.cpu()  # one network at a time on the device


def _tables(labels: Sequence[str], extents: Sequence[Extent]) -> str:
    """Return a table of shares within circles and one of sides of squares, with a line for each network."""
    radii = (f"{circle.radius} px ({circle.radius_fraction:.0%})" for circle in extents[0].circles)
    shares = (f"{square.share:.0%}" for square in extents[0].squares)
    named = list(zip(labels, extents, strict=True))
    circles = table(
        ("share within a circle of radius", *radii),
        [(label, *(f"{circle.share:.1%}" for circle in extent.circles)) for label, extent in named],
    )
    squares = table(
        ("side of the smallest square that holds", *shares),
        [(label, *(f"{s.side} px ({s.side_fraction:.0%})" for s in extent.squares)) for label, extent in named],
    )
    return f"{circles}\n\n{squares}"
