"""Images to measure on: photographs from a folder, or noise."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import pil_to_tensor

from lightning_modules.receptive_field.errors import ReceptiveFieldError


def find_images(folder: Path, count: int) -> list[Path]:
    """Choose images below a folder, spread evenly over their sorted names and so over the folders of classes.

    Args:
        folder: Searched with all folders in it.
        count: Images wanted; all are taken where there are fewer.

    Raises:
        ReceptiveFieldError: When there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise ReceptiveFieldError(f"--images {folder} is no folder: name one with image files.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMG_EXTENSIONS)
    if not files:
        raise ReceptiveFieldError(
            f"--images {folder} holds no image ({' '.join(IMG_EXTENSIONS)}): name another folder."
        )
    count = min(count, len(files))
    return [files[index * len(files) // count] for index in range(count)]


def read_image(file: Path, size: int) -> Tensor:
    """Return the largest central square of an image, resampled.

    Args:
        file: Image file.
        size: Height and width in pixels.

    Returns:
        Colours (3, size, size), uint8.

    Raises:
        ReceptiveFieldError: When the file cannot be read.
    """
    try:
        with Image.open(file) as image:
            return pil_to_tensor(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
    except OSError as error:
        raise ReceptiveFieldError(f"Image {file} cannot be read ({error}): remove or replace it.") from error


def normalised(image: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turn uint8 colours (C, H, W) into what a network expects.

    Args:
        image: Colours, 0 to 255.
        mean: Subtracted per channel, for images in [0, 1].
        std: Divided by per channel, after the mean.
    """
    return (image / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def noise_image(index: int, size: int) -> Tensor:
    """Return standard normal values (3, size, size), the same for the same index: an image already normalised."""
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(index))
