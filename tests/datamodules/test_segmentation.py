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


def test_another_value_may_count_nowhere(root: Path) -> None:
    data = module(root, ignore_zero=False, ignore_index=0)
    data.setup("validate")
    _, masks = next(iter(data.val_dataloader()))
    assert masks[0, 0].tolist() == [1] * 4 + [255] * 12 + [2] * 16


def test_images_are_evaluated_in_their_own_ratio_and_masks_in_their_own_size(root: Path) -> None:
    save_pair(root, "validation", "b", np.zeros((30, 200), np.uint8))
    data = module(root, ignore_zero=False, resize="shorter", longest_side=96)
    data.setup("fit")
    (wide, mask), (wider, other) = data.val_dataloader()
    assert (wide.shape, mask.shape) == ((1, 3, 32, 64), (1, 40, 80))  # the shorter side decides
    assert (wider.shape, other.shape) == ((1, 3, 14, 96), (1, 30, 200))  # the longer one
    assert set(mask.unique().tolist()) == {0, 1, 2, 255}
    assert (mask[0, -5:] == 255).all()
    assert wide.flatten(2).std(dim=2).max() < 1e-5  # one colour, nothing is padded
    assert next(iter(data.train_dataloader()))[0].shape == (2, 3, 32, 32)
    data.setup("predict")
    assert [pictures[0].path[-5:] for _, pictures in data.predict_dataloader()] == ["a.jpg", "b.jpg"]
    with pytest.raises(UserError, match=r"longest_side = 31 must be data\.image_size or more"):
        module(root, longest_side=31)


def test_palettes_hold_indices_and_colours_are_those_of_the_file(root: Path) -> None:
    file = root / "names.txt"
    file.write_text("sky, 128, 128, 128\nroad, with cars, 128, 64, 128\nignore, 0, 0, 0\n")
    folder = root / "annotations" / "validation"
    coloured = np.zeros((40, 80, 3), np.uint8)
    coloured[:, :40], coloured[:10] = (128, 64, 128), (128, 128, 128)
    Image.fromarray(coloured).save(folder / "a.png")
    indexed = Image.fromarray((np.arange(80) >= 40).astype(np.uint8)[None].repeat(40, axis=0), mode="P")
    indexed.putpalette([9, 9, 9, 200, 0, 0])
    indexed.save(folder / "b.png")
    data = module(root, num_classes=2, ignore_zero=False, class_names_file=str(file))
    assert data.class_names == ("sky", "road, with cars")
    data.find("val")
    first, second = (data.read("val", index).target["mask"].numpy() for index in (0, 1))
    assert (first[:10] == 0).all()
    assert (first[10:, :40] == 1).all()
    assert (first[10:, 40:] == 255).all()
    assert second[0].tolist() == [0] * 40 + [1] * 40
    coloured[3, 3] = (1, 2, 3)
    Image.fromarray(coloured).save(folder / "a.png")
    with pytest.raises(UserError, match=r"a\.png has the colour 1, 2, 3, which .*names\.txt does not list"):
        data.read("val", 0)
    file.write_text("sky, 128, 128, 128\nroad\n")
    with pytest.raises(UserError, match="must give each class a colour of its own, or none to any"):
        module(root, num_classes=2, class_names_file=str(file))


def test_pictures_to_predict_need_no_masks(root: Path) -> None:
    data = module(root, predict_folder=str(root / "images"))
    data.setup("predict")
    images, pictures = next(iter(data.predict_dataloader()))
    assert images.shape == (2, 3, 32, 32)
    assert pictures[0].path.endswith("training/a.jpg")
    assert (pictures[0].name, pictures[0].size, pictures[0].scaled) == ("training/a.jpg", (40, 80), (16, 32))


def test_what_is_wrong_with_the_data_is_named(root: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png has the value 2, but data\.num_classes = 2 .*ignore_zero = False"):
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
