"""Loaders to compare with: timm's, and this project's first one, which sent images as floats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageDataset, create_loader, create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.datasets import collate_readable
from datamodules.folders import ClassFolders
from datamodules.image_files import ImageFiles
from datamodules.posterize import repair_posterize
from datamodules.sampling import Draw, TrainingSampler
from datamodules.seeding import kept_generators, seed_generators
from datamodules.transforms import AugmentationConfig
from mobilemamba.images import open_image
from mobilemamba.metadata import ModelMetadata

Made = tuple[Any, Callable[[Any], tuple[Tensor, Tensor]]]
RECIPE = AugmentationConfig()
OPTIONS: dict[str, Any] = {
    "auto_augment": RECIPE.auto_augment,
    "interpolation": RECIPE.interpolation,
    "re_prob": RECIPE.erasing_probability,
    "re_mode": RECIPE.erasing_mode,
}


def timm_loader(root: Path, batch_size: int, image_size: int, num_workers: int) -> Callable[[], Made]:
    """Return a function that makes timm's prefetching loader, which normalises and erases on the device."""
    repair_posterize()  # it crashes with Pillow 13
    dataset = ImageDataset(str(root / "train"))
    loader = create_loader(
        dataset,
        (3, image_size, image_size),
        batch_size,
        is_training=True,
        num_workers=num_workers,
        persistent_workers=False,
        device=torch.device("cpu"),
        **OPTIONS,
    )
    return lambda: (loader, tuple)


class _EarlierImages(Dataset[Any]):
    """Images as floats; each is augmented from its own seed and leaves the state of the generators unchanged."""

    def __init__(self, images: ImageFiles, metadata: ModelMetadata) -> None:
        repair_posterize()
        self.images, self.metadata = images, metadata
        self.transform = create_transform(metadata.image_size, is_training=True, **OPTIONS)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int]:
        file, label = self.images[draw.image]
        image = open_image(file, self.metadata)
        with kept_generators():
            seed_generators(draw.seed)
            return self.transform(image), label


def earlier_loader(root: Path, batch_size: int, image_size: int, num_workers: int) -> Callable[[], Made]:
    """Return a function that makes this project's first loader."""
    images = ClassFolders(root, all_formats=False, undivided=False).load("train")
    dataset = _EarlierImages(images, ModelMetadata((image_size, image_size)))

    def make() -> Made:
        sampler = TrainingSampler(len(images), 0)
        options: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler, "drop_last": True}
        return DataLoader(dataset, num_workers=num_workers, collate_fn=collate_readable, **options), tuple

    return make
