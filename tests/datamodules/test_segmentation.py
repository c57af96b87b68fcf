"""Folders of images and masks, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.dense_transforms import DenseAugmentation
from datamodules.segmentation import SegmentationDataModule
from mobilemamba import UserError


def save_pair(root: Path, split: str, name: str, mask: np.ndarray, size: tuple[int, int] | None = None) -> None:
    for kind, ending in (("images", ".jpg"), ("annotations", ".png")):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
        height, width = mask.shape[:2] if size is None else size
        picture = np.full((height, width, 3), 120, np.uint8) if kind == "images" else mask
        Image.fromarray(picture).save(root / kind / split / f"{name}{ending}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    mask = np.zeros((40, 80), np.uint8)
    mask[:, 40:] = 2
    mask[:10, :10] = 1
    mask[-5:] = 255
    for split in ("training", "validation"):
        for name in ("a", "b"):
            save_pair(tmp_path, split, name, mask)
    return tmp_path


def module(root: Path, **options: Any) -> SegmentationDataModule:
    defaults: dict[str, Any] = {"num_classes": 3, "image_size": 32, "batch_size": 2, "num_workers": 0}
    return SegmentationDataModule(root=str(root), **(defaults | options))


def read_first(data: SegmentationDataModule) -> None:
    data.find("val")
    data.read("val", 0)


def test_images_and_masks_are_scaled_together_and_padding_counts_nowhere(root: Path) -> None:
    data = module(root, ignore_zero=False)
    data.setup("fit")
    images, masks = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert masks.shape == (2, 32, 32)
    assert masks.dtype == torch.int64
    assert (masks[:, 16:] == 255).all()  # 80 x 40 pixels became 32 x 16
    assert (images[:, :, 16:] == 0).all()  # the mean colour
    assert masks[0, 0].tolist() == [1] * 4 + [0] * 12 + [2] * 16
    assert (masks[0, 14:16] == 255).all()
    images, masks = next(iter(data.train_dataloader()))
    assert (masks[(images == 0).all(dim=1)] == 255).all()
    assert set(masks.unique().tolist()) <= {0, 1, 2, 255}


def test_zero_is_no_class_in_ade20k(root: Path) -> None:
    data = module(root, num_classes=2, augmentation=DenseAugmentation(horizontal_flip=0.0))
    data.setup("validate")
    _, masks = next(iter(data.val_dataloader()))
    assert masks[0, 0].tolist() == [0] * 4 + [255] * 12 + [1] * 16


def test_pictures_to_predict_need_no_masks(root: Path) -> None:
    data = module(root, predict_folder=str(root / "images"))
    data.setup("predict")
    images, pictures = next(iter(data.predict_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert pictures[0].path.endswith("training/a.jpg")
    assert (pictures[0].name, pictures[0].size, pictures[0].scaled) == ("training/a.jpg", (40, 80), (16, 32))


def test_what_is_wrong_with_the_data_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png holds the value 2, but data\.num_classes = 2 .*ignore_zero = False"):
        read_first(module(root, num_classes=2, ignore_zero=False))
    (root / "annotations" / "validation" / "a.png").unlink()
    with pytest.raises(UserError, match=r"1 of 2 images in .* have no mask; the first is a\.jpg"):
        module(root).setup("validate")
    save_pair(root, "validation", "a", np.zeros((40, 81), np.uint8), (40, 80))
    with pytest.raises(UserError, match=r"a\.png has 81 x 40 pixels, its image 80 x 40"):
        read_first(module(root))
    save_pair(root, "validation", "a", np.zeros((40, 80, 3), np.uint8))
    with pytest.raises(UserError, match=r"a\.png has 3 channels"):
        read_first(module(root))
    (root / "annotations" / "validation" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"Mask .*a\.png cannot be read"):
        read_first(module(root))
    (root / "names.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"names\.txt' must be of 3 names; it has 2"):
        module(root, class_names_file=str(root / "names.txt"))
    assert module(root, num_classes=2, class_names_file=str(root / "names.txt")).class_names == ("one", "two")
