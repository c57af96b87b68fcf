"""A small network, and a small, learnable data set behind a datamodule, without files."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from mobilemamba import MobileMambaConfig, ModelMetadata

TINY = MobileMambaConfig(num_classes=4, widths=(16, 32, 32), depths=(1, 1, 1))


class TinyData(LightningDataModule):
    """Four classes of noisy 64-pixel images, each brighter in one quarter."""

    def __init__(self, samples: int = 24, batch_size: int = 8, num_classes: int = 4, image_size: int = 64) -> None:
        super().__init__()
        self.samples = samples
        self.batch_size = batch_size
        self.num_classes = num_classes
        self.image_size = image_size

    def metadata(self) -> ModelMetadata:
        names = tuple(f"class {index}" for index in range(self.num_classes))
        return ModelMetadata(image_size=(self.image_size, self.image_size), class_names=names)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(0), batch_size=self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset(1), batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Any]:
        images = self.dataset(1).tensors[0]
        named = [(image, f"{index}.png") for index, image in enumerate(images)]
        return DataLoader(named, batch_size=self.batch_size)  # type: ignore[arg-type]

    def dataset(self, seed: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(seed)
        size, half = self.image_size, self.image_size // 2
        images = torch.randn(self.samples, 3, size, size, generator=generator)
        targets = torch.arange(self.samples) % self.num_classes
        for image, target in zip(images, targets.tolist(), strict=True):
            row, column = target // 2 % 2 * half, target % 2 * half
            image[:, row : row + half, column : column + half] += 2
        return TensorDataset(images, targets)
