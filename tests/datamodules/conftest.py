from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def save_image(path: Path, seed: int, size: tuple[int, int] = (80, 72)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make root/{train,val}/<class>/*.jpg with noise images."""

    def make(classes: tuple[str, ...] = ("ant", "bee", "cow"), per_class: int = 4) -> Path:
        root = tmp_path / "images"
        for split in ("train", "val"):
            for index, name in enumerate(classes):
                for number in range(per_class):
                    save_image(root / split / name / f"{number}.jpg", seed=100 * index + number)
        return root

    return make
