from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import ImageNetDataModule, MixingConfig

UNMIXED = MixingConfig(mixup=0, cutmix=0)


def save_image(path: Path, seed: int, size: tuple[int, int] = (80, 72)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def photographs(root: Path, stage: str = "fit", **options: Any) -> ImageNetDataModule:
    defaults = {"num_classes": 3, "image_size": 64, "batch_size": 4, "num_workers": 0, "mixing": UNMIXED}
    data = ImageNetDataModule(str(root), **(defaults | options))
    data.setup(stage)
    return data


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make root/{train,val}/{ant,bee,cow}/*.jpg with noise images."""

    def make(per_class: int = 4) -> Path:
        root = tmp_path / "images"
        for split in ("train", "val"):
            for index, name in enumerate(("ant", "bee", "cow")):
                for number in range(per_class):
                    save_image(root / split / name / f"{number}.jpg", seed=100 * index + number)
        return root

    return make
