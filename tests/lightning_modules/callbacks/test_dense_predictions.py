"""What dense tasks find as files: in the original's size, with the data set's own ids, and drawn where it is."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from datamodules.coco import CocoDataModule
from datamodules.coco_masks import decode_mask
from datamodules.dense import Picture
from datamodules.scenes import DigitScenesDataModule, DigitScenesDetectionDataModule
from lightning_modules.callbacks import DensePredictions, DenseSamples
from lightning_modules.callbacks.dense_predictions import coco_results, file_name, index_image
from lightning_modules.callbacks.dense_samples import truth_and_found
from lightning_modules.detection import ObjectDetection
from lightning_modules.pictures.found import colour_of, draw_found
from lightning_modules.segmentation import SemanticSegmentation
from mobilemamba import MobileMambaConfig, UserError
from tests.datamodules.coco_files import IDS, coco
from tests.lightning_modules.small_runs import events, logged_trainer, picture_steps, quiet_trainer

NETWORK = MobileMambaConfig(num_classes=0, stem_stride=8, widths=(16, 32, 32), depths=(1, 1, 1))
SCENES: dict[str, Any] = {"image_size": 64, "batch_size": 4, "scenes": 8, "validation_scenes": 6}

pytestmark = [
    pytest.mark.skipif(find_spec("faster_coco_eval") is None, reason="the extra `dense` is not installed"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning", "ignore:The warm-up of .* is not"),
]


class KnownObjects(ObjectDetection):
    """Finds the first object of the files, and one that is uncertain, in the pixels of the batch."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        boxes = torch.tensor([[5.0, 10, 25, 30], [0, 0, 60, 40]]) * torch.tensor([64 / 60, 42 / 40] * 2)
        found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.1]), "labels": torch.tensor([1, 2])}
        return [{**found, "masks": torch.ones(2, 1, 28, 28)} for _ in images]


def predict(folder: Path, data: CocoDataModule, **options: Any) -> Path:
    trainer = quiet_trainer(folder, callbacks=[DensePredictions(str(folder / "found"), **options)])
    module = KnownObjects(detector="mask_rcnn", network=NETWORK, num_classes=3, channels=16)
    trainer.predict(module, datamodule=data, return_predictions=False)
    return folder / "found"


def test_results_have_the_ids_and_pixels_of_the_data_set(tmp_path: Path) -> None:
    data = CocoDataModule(root=str(coco(tmp_path)), num_classes=3, image_size=64, batch_size=3, num_workers=0)
    found = predict(tmp_path, data)
    rows = json.loads((found / "results.json").read_text())
    assert [row["image_id"] for row in rows] == [100, 100, 101, 101, 102, 102, 103, 103]
    assert [row["category_id"] for row in rows[:2]] == [IDS[1], IDS[2]]
    assert rows[0]["bbox"] == pytest.approx([5, 10, 20, 20], abs=0.02)
    assert rows[0]["score"] == pytest.approx(0.9, abs=1e-4)
    mask = decode_mask(rows[0]["segmentation"], 40, 60)
    assert mask[11:29, 6:24].all()
    assert mask[:9].sum() + mask[32:].sum() + mask[:, :4].sum() + mask[:, 27:].sum() == 0
    drawn = np.asarray(Image.open(found / "pictures" / "0.jpg"))
    factor = drawn.shape[0] // 40
    assert drawn.shape == (40 * factor, 60 * factor, 3)
    colour = np.array(colour_of(1))
    inside, outside = drawn[20 * factor, 15 * factor].astype(int), drawn[38 * factor, 50 * factor].astype(int)
    assert np.abs(inside - (colour + 40) / 2).max() < 12  # half its class's colour, half the image's grey
    assert np.abs(outside - 40).max() < 12  # the other object is too uncertain
    assert sorted(path.name for path in (found / "pictures").iterdir()) == [f"{index}.jpg" for index in range(4)]


def test_results_of_data_without_ids_are_numbered_by_class() -> None:
    found = {"boxes": torch.tensor([[1.0, 2, 4, 8]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([7])}
    rows = coco_results(Picture("a/b.jpg", "b.jpg", 3, (10, 10), (5, 5)), found, None)
    assert rows == [{"image_id": 3, "category_id": 7, "bbox": [1, 2, 3, 6], "score": 0.5}]


def test_classes_of_pixels_are_written_in_the_original_size(tmp_path: Path) -> None:
    module = SemanticSegmentation(network=NETWORK, num_classes=11, channels=16)
    trainer = quiet_trainer(tmp_path, callbacks=[DensePredictions(str(tmp_path / "found"))])
    data = DigitScenesDataModule(**SCENES)
    outputs = trainer.predict(module, datamodule=data, return_predictions=True)
    assert outputs is not None
    found = [classes for batch in outputs for classes in batch["found"]]
    for index, classes in enumerate(found):
        with Image.open(tmp_path / "found" / "masks" / f"scene-{index:03d}.png") as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.asarray(mask), classes.numpy())
            assert tuple(mask.getpalette()[3:6]) == colour_of(1)  # type: ignore[index]  # there is one
    assert len(list((tmp_path / "found" / "pictures").iterdir())) == len(found) == 6
    images = torch.zeros(1, 3, 32, 32)
    at = Picture("", "", 0, (31, 63), (16, 32))
    assert module.eval().predict_step((images, [at]), 0)["found"][0].shape == (31, 63)
    many = np.array([[0, 300]], dtype=np.int64)
    assert np.array_equal(np.asarray(index_image(many)), many)


def test_a_folder_that_cannot_be_written_is_found_before_predicting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    trainer = quiet_trainer(tmp_path, callbacks=[DensePredictions(str(tmp_path / "file" / "found"))])
    with pytest.raises(UserError, match=r"dense_predictions\.folder = .*found' cannot be written"):
        trainer.predict(SemanticSegmentation(network=NETWORK, num_classes=11), datamodule=DigitScenesDataModule())
    with pytest.raises(UserError, match=r"least_score = 2 must be from 0 to 1"):
        DensePredictions(least_score=2)


@pytest.mark.parametrize("task", ["segmentation", "retinanet"])
def test_pictures_of_truth_and_prediction_are_logged_after_validation(tmp_path: Path, task: str) -> None:
    if task == "segmentation":
        module: Any = SemanticSegmentation(network=NETWORK, num_classes=11, channels=16)
        data = DigitScenesDataModule(**SCENES)
    else:
        module = ObjectDetection(detector=task, network=NETWORK, num_classes=10, channels=16)
        data = DigitScenesDetectionDataModule(**SCENES)
    trainer: Trainer = logged_trainer(
        tmp_path, callbacks=[DenseSamples(count=5, every_n_validations=3)], max_epochs=4, use_distributed_sampler=False
    )
    trainer.fit(module, datamodule=data)
    assert picture_steps(events(tmp_path))["val/found"] == [2, 4, 6, 8]


def test_truth_and_prediction_are_shown_in_the_pixels_of_the_batch() -> None:
    boxes = torch.tensor([[20.0, 10, 40, 30]])
    target = {"boxes": boxes, "labels": torch.tensor([0]), "size": torch.tensor([80, 100])}
    target |= {"scaled": torch.tensor([40, 50]), "masks": torch.ones(1, 80, 100, dtype=torch.uint8)}
    output = {"boxes": boxes / 2, "labels": torch.tensor([0]), "scores": torch.ones(1)}
    output["masks"] = torch.ones(1, 1, 28, 28)
    truth, found = truth_and_found(target, output)
    assert isinstance(truth, dict)
    assert isinstance(found, dict)
    assert torch.equal(truth["boxes"], found["boxes"])
    assert truth["masks"].shape == found["masks"].shape == (1, 40, 50)
    classes = torch.tensor([[0, 1], [255, 1]])
    truth, found = truth_and_found(classes, torch.nn.functional.one_hot(torch.ones(2, 2).long(), 3).permute(2, 0, 1))
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [[1, 1], [255, 1]]  # padding is not drawn


def test_images_without_objects_and_without_classes_stay_as_they_are() -> None:
    image = torch.full((3, 300, 300), 7, dtype=torch.uint8)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    for found in (nothing, torch.full((300, 300), 255)):
        assert torch.equal(draw_found(image, found, None), image)


def test_files_of_images_that_differ_in_their_suffix_alone_do_not_replace_each_other() -> None:
    names = ["scene", "a.jpg", "a.png", "below/a.jpg", "a.JPG", "a.jpeg"]
    files = [str(file_name(name, ".png")) for name in names]
    assert files[:4] == ["scene.png", "a.png", "a.png.png", "below/a.png"]
    assert len(set(files)) == len(names)
