"""Files in COCO's form: what is read of them, how images are scaled, and what is wrong with them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.coco import CocoDataModule
from datamodules.coco_masks import decode_mask, encode_mask
from datamodules.dense import Picture
from datamodules.dense_transforms import DenseAugmentation
from datamodules.scenes import DigitScenesDataModule
from mobilemamba import UserError
from tests.datamodules.coco_files import CATEGORIES, IDS, annotation, coco, content, save

NOTHING = DenseAugmentation(scale=(1.0, 1.0), crop=False, horizontal_flip=0.0, photometric=0.0)

needs_masks = pytest.mark.skipif(find_spec("faster_coco_eval") is None, reason="the extra `dense` is not installed")


def module(root: Path, **options: Any) -> CocoDataModule:
    defaults: dict[str, Any] = {"num_classes": 3, "image_size": 64, "batch_size": 2, "num_workers": 0}
    return CocoDataModule(root=str(root), **(defaults | options))


def targets(data: CocoDataModule, split: str) -> list[dict[str, torch.Tensor]]:
    data.setup("fit" if split == "train" else "validate")
    return [data.datasets[split][index][1] for index in range(len(data.datasets[split]))]


def test_categories_with_gaps_become_classes_in_the_order_of_their_ids(tmp_path: Path) -> None:
    data = module(coco(tmp_path))
    found = targets(data, "val")
    assert data.category_ids == IDS
    assert data.metadata().class_names == ("car", "cat", "toothbrush")
    assert [one["labels"].tolist() for one in found] == [[1, 2]] * 3 + [[]]
    assert found[3]["boxes"].shape == (0, 4)  # an image without objects is evaluated, and trained on
    assert [len(one["labels"]) for one in targets(data, "train")] == [2, 2, 2, 0]


def test_objects_to_find_stay_as_in_the_file_and_those_to_learn_are_scaled_with_the_image(tmp_path: Path) -> None:
    data = module(coco(tmp_path), augmentation=NOTHING)
    first = targets(data, "val")[0]
    assert first["boxes"].tolist() == [[5, 10, 25, 30], [30, 5, 55, 35]]
    assert (first["size"].tolist(), first["scaled"].tolist()) == ([40, 60], [42, 64])
    assert first["area"].tolist() == [400, 750]
    data.setup("fit")
    image, learnt = data.datasets["train"][0]
    assert image.shape == (3, 64, 64)
    scale = torch.tensor([64 / 60, 42 / 40] * 2)
    torch.testing.assert_close(learnt["boxes"], first["boxes"] * scale)
    assert (image[:, 42:] == 0).all()  # the mean colour


def test_the_shorter_side_is_scaled_unless_the_longer_one_becomes_too_long(tmp_path: Path) -> None:
    wide = content(2)
    wide["images"][1] |= {"width": 160}
    for split in ("train2017", "val2017"):
        save(tmp_path, split, wide)
    data = module(tmp_path, image_size=80, resize="shorter", longest_side=133, augmentation=NOTHING)
    found = targets(data, "val")
    assert [one["scaled"].tolist() for one in found] == [[80, 120], [33, 133]]
    images, _ = next(iter(data.val_dataloader()))
    assert images.shape == (2, 3, 96, 160)  # room for both, in multiples of 32
    assert (images[1, :, 33:] == 0).all()
    data.setup("fit")
    images, learnt = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 96, 160)
    assert torch.cat([one["boxes"] for one in learnt]).max().item() == pytest.approx(55 * 2, abs=1)


def test_a_stretched_image_fills_the_square(tmp_path: Path) -> None:
    data = module(coco(tmp_path), resize="stretch", augmentation=NOTHING)
    assert targets(data, "val")[0]["scaled"].tolist() == [64, 64]
    data.setup("fit")
    assert data.datasets["train"][0][1]["boxes"][0].tolist() == pytest.approx([5 * 64 / 60, 16, 25 * 64 / 60, 48])
    with pytest.raises(UserError, match=r"augmentation\.ssd_crop = True must be false"):
        DigitScenesDataModule(augmentation=DenseAugmentation(ssd_crop=True))
    with pytest.raises(UserError, match=r"data\.resize = 'stretch' must be fit or shorter with augmentation\.crop"):
        module(tmp_path, resize="stretch")


def test_ssds_crops_leave_boxes_inside_the_image(tmp_path: Path) -> None:
    ssd = DenseAugmentation(scale=(1.0, 1.0), crop=False, ssd_crop=True)
    data = module(coco(tmp_path), resize="stretch", augmentation=ssd)
    data.setup("fit")
    for _ in range(5):
        for images, learnt in data.train_dataloader():
            assert images.shape == (2, 3, 64, 64)
            for one in learnt:
                assert ((one["boxes"] >= 0) & (one["boxes"] <= 64)).all()
                assert len(one["labels"]) == len(one["boxes"])


@needs_masks
def test_masks_are_read_from_polygons_and_run_lengths(tmp_path: Path) -> None:
    described = content(2)
    runs = {"size": [40, 60], "counts": [400, 40, 1960]}  # columns 10, from its top
    described["annotations"] += [annotation(101, 3, [10, 0, 1, 40], segmentation=runs)]
    for split in ("train2017", "val2017"):
        save(tmp_path, split, described)
    found = targets(module(tmp_path, masks=True), "val")
    assert found[0]["masks"].shape == (2, 40, 60)
    assert found[0]["masks"][0, 10:30, 5:25].all()
    assert found[0]["masks"][0].sum() == 400
    assert found[1]["masks"][0].nonzero()[:, 1].unique().tolist() == [10]
    data = module(tmp_path, masks=True, augmentation=NOTHING)
    data.setup("fit")
    assert data.datasets["train"][0][1]["masks"].shape == (2, 42, 64)


@needs_masks
def test_objects_have_no_pixels_in_the_padding(tmp_path: Path) -> None:
    smaller = DenseAugmentation(scale=(0.5, 0.5), horizontal_flip=0.0, photometric=0.0)
    data = module(coco(tmp_path), masks=True, augmentation=smaller)
    data.setup("fit")
    image, learnt = data.datasets["train"][0]
    assert image.shape == (3, 64, 64)
    assert learnt["masks"].shape == (2, 64, 64)
    for mask, box in zip(learnt["masks"], learnt["boxes"], strict=True):
        area = ((box[2] - box[0]) * (box[3] - box[1])).item()
        assert mask.max() == 1
        assert mask.sum().item() == pytest.approx(area, rel=0.2)


@needs_masks
def test_run_lengths_give_the_mask_they_were_made_of() -> None:
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    runs = encode_mask(mask)
    assert isinstance(runs["counts"], str)
    assert np.array_equal(decode_mask(runs, 7, 5), mask)
    assert decode_mask([], 7, 5).sum() == 0
    with pytest.raises(ValueError, match=r"size \[7, 5\], the image \[5, 7\]"):
        decode_mask(runs, 5, 7)


def test_crowds_are_not_learnt_and_are_marked_where_they_are_not_to_be_found(tmp_path: Path) -> None:
    described = content(2)
    described["annotations"].append(annotation(100, 3, [0, 0, 60, 40], iscrowd=1, area=1234))
    for split in ("train2017", "val2017"):
        save(tmp_path, split, described)
    data = module(tmp_path)
    found = targets(data, "val")[0]
    assert found["iscrowd"].tolist() == [0, 0, 1]
    assert found["area"].tolist()[2] == 1234
    assert targets(data, "train")[0]["labels"].tolist() == [1, 2]


def test_boxes_are_clipped_and_those_of_no_area_left_out_and_counted_once(tmp_path: Path) -> None:
    described = content(2)
    boxes = [[-5, -5, 20, 20], [50, 30, 100, 100], [70, 5, 10, 10], [5, 5, 0, 10], [5, 5, 10, float("nan")]]
    described["annotations"] = [annotation(100, 3, box) for box in boxes]
    save(tmp_path, "val2017", described)
    data = module(tmp_path)
    with pytest.warns(UserWarning, match=r"^3 of the 5 boxes in .*instances_val2017\.json have no area") as caught:
        found = targets(data, "val")
    assert len(caught) == 1
    assert found[0]["boxes"].tolist() == [[0, 0, 15, 15], [50, 30, 60, 40]]


def test_a_folder_to_predict_needs_no_file(tmp_path: Path) -> None:
    coco(tmp_path)
    data = module(tmp_path, annotations="none/{}.json", predict_folder=str(tmp_path / "val2017"))
    data.setup("predict")
    images, pictures = next(iter(data.predict_dataloader()))
    assert images.shape == (2, 3, 64, 64)
    assert pictures[0] == Picture(str(tmp_path / "val2017" / "0.jpg"), "0.jpg", 0, (40, 60), (42, 64))
    data = module(tmp_path)
    data.setup("predict")
    assert data.datasets["predict"][1][1].image_id == 101


def change(root: Path, **parts: Any) -> None:
    save(root, "val2017", content() | parts)


def test_what_is_wrong_with_the_files_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, "val2017", content(), without=("1.jpg", "2.jpg"))
    with pytest.raises(UserError, match=r"2 of 4 images named in .*val2017\.json are not in .*val2017, the first 1\.j"):
        module(tmp_path).setup("validate")
    with pytest.raises(UserError, match=r"data\.num_classes = 80 must be 3, the number of categories"):
        module(tmp_path, num_classes=80).setup("validate")
    with pytest.raises(UserError, match=r"other\.json' must be an existing file"):
        module(tmp_path, annotations="other.json").setup("validate")
    for objects, expected in (
        ([annotation(7, 3, [0, 0, 1, 1])], r"annotations\[0\] has image_id = 7"),
        ([annotation(100, 4, [0, 0, 1, 1])], r"annotations\[0\] has category_id = 4"),
        ([{"image_id": 100, "category_id": 3}], r"lacks 'bbox'"),
        ([annotation(100, 3, [0, 0, 1, 1]) | {"bbox": [1, 2]}], "not in COCO's format: not enough values"),
        ([annotation(100, 3, [0, 0, 1, 1]) | {"bbox": None}], "not in COCO's format"),
    ):
        change(tmp_path, annotations=objects)
        with pytest.raises(UserError, match=expected):
            module(tmp_path).setup("validate")
    change(tmp_path, images=[])
    with pytest.raises(UserError, match="has no images"):
        module(tmp_path).setup("validate")
    change(tmp_path, images=content()["images"] * 2)
    with pytest.raises(UserError, match="several images with the same id"):
        module(tmp_path).setup("validate")
    path.write_text("[1, 2")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        module(tmp_path).setup("validate")
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="not in COCO's format"):
        module(tmp_path).setup("validate")
    save(tmp_path, "train2017", content() | {"categories": [*CATEGORIES[:2], {"id": 17, "name": "dog"}]})
    change(tmp_path)
    with pytest.raises(UserError, match="must have the same categories as the file of the other split"):
        module(tmp_path).setup("fit")


@needs_masks
def test_an_image_or_a_mask_that_contradicts_its_file_is_named(tmp_path: Path) -> None:
    described = content()
    described["annotations"][0]["segmentation"] = {"size": [1, 2], "counts": "0"}
    save(tmp_path, "val2017", described)
    with pytest.raises(UserError, match=r"A mask of image .*0\.jpg cannot be read \(its run lengths have size"):
        targets(module(tmp_path, masks=True), "val")
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"width": 60', '"width": 61'))
    with pytest.raises(UserError, match=r"0\.jpg has 60 x 40 pixels, but its JSON file says 61 x 40"):
        targets(module(tmp_path), "val")
