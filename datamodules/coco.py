"""Data of detection in COCO's format: a JSON file and a folder of images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from datamodules.coco_masks import decode_mask
from datamodules.dense import DenseDataModule, Sample
from mobilemamba.errors import UserError, require
from mobilemamba.images import find_images, open_image


@dataclass
class Record:
    """An image of a file, and the objects in it.

    Loader processes share the memory of arrays; Python objects would be copied to each of them.

    Args:
        image_id: Its id in the file.
        file: Path of the image, relative to its folder.
        size: Height and width in pixels.
        boxes: Boxes (N, 4) of the objects: left, top, right, bottom in pixels.
        labels: Class indices (N,).
        areas: Areas (N,) in square pixels, by which COCO calls objects small, medium or large.
        crowds: Whether each object is a crowd (N,).
        segmentations: The objects' segmentations in COCO's format as JSON; null without masks.
    """

    image_id: int
    file: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    segmentations: np.ndarray

    @classmethod
    def of_objects(cls, image_id: int, file: str, size: tuple[int, int], objects: Sequence[Sequence[Any]]) -> Record:
        """Make a record of objects, each a tuple of box, label, area, is_crowd and segmentation."""
        boxes, labels, areas, crowds, segmentations = zip(*objects, strict=True) if objects else [()] * 5
        return cls(
            image_id,
            file,
            size,
            np.array(boxes, dtype=np.float32).reshape(-1, 4),
            np.array(labels, dtype=np.int64),
            np.array(areas, dtype=np.float32),
            np.array(crowds, dtype=bool),
            np.frombuffer(json.dumps(segmentations).encode(), dtype=np.uint8),
        )


class CocoDataModule(DenseDataModule):
    """COCO or any data set in its format: ``root/val2017`` and ``root/annotations/instances_val2017.json``.

    Boxes are clipped to their image; empty ones are dropped. Crowds are not used in training and are ignored in
    evaluation. Classes are the file's categories in the order of their ids, which may have gaps.

    Args:
        root: Folder of images and annotations.
        num_classes: Categories of the file; 80 in COCO.
        training: Folder of the training images, below root.
        validation: Folder of the images to validate and test on, below root.
        annotations: JSON file of a folder's images, below root; {} stands for the folder.
        masks: Whether to read masks, which Mask R-CNN needs.
        predict_folder: Images to predict, in any depth of folders; null predicts the validation images.
        kwargs: Further options of DenseDataModule.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    finds_objects = True

    def __init__(
        self,
        *,
        root: str,
        num_classes: int = 80,
        training: str = "train2017",
        validation: str = "val2017",
        annotations: str = "annotations/instances_{}.json",
        masks: bool = False,
        predict_folder: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        self.root, self.annotations, self.has_masks = Path(root).expanduser(), annotations, masks
        self.folders = {"train": training, "val": validation, "test": validation, "predict": validation}
        self.predict_folder = None if predict_folder is None else Path(predict_folder).expanduser()
        self.records: dict[str, list[Record]] = {}

    def find(self, split: str) -> int:
        """Read the file of a split, and check that all its images are there.

        Raises:
            UserError: When images are missing, or the file is not in COCO's format.
        """
        path = self.root / self.annotations.replace("{}", self.folders[split])
        other = split == "predict" and self.predict_folder is not None
        if other and not path.is_file():  # categories then have the indices of their classes as ids
            self.records[split] = []
        else:
            categories, self.records[split] = read_records(path, self.has_masks)
            self._take_categories(path, categories)
        if other and self.predict_folder is not None:
            found = find_images(self.predict_folder, "data.predict_folder")
            names = [str(file.relative_to(self.predict_folder)) for file in found]
            self.records[split] = [Record.of_objects(index, name, (0, 0), []) for index, name in enumerate(names)]
            return len(names)
        folder, records = self.folder_of(split), self.records[split]
        missing = [record.file for record in records if not (folder / record.file).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(records)} images named in {path} are not in {folder}, the first {missing[0]}: "
                "add them, or set data.root, data.training or data.validation to the folder that they are in."
            )
        return len(records)

    def folder_of(self, split: str) -> Path:
        """Return the folder of a split's images."""
        if split == "predict" and self.predict_folder is not None:
            return self.predict_folder
        return self.root / self.folders[split]

    def read(self, split: str, index: int) -> Sample:
        """Return an image with its objects; in evaluation also with their areas and crowds.

        Raises:
            UserError: When it cannot be read, or its size is not that of the JSON file.
        """
        record = self.records[split][index]
        path = self.folder_of(split) / record.file
        picture = open_image(path)
        sample = Sample(functional.to_image(picture), {}, str(path), record.file, record.image_id)
        if split == "predict":
            return sample
        size = picture.height, picture.width
        if size != record.size:
            raise UserError(
                f"Image {path} has {size[1]} x {size[0]} pixels, but its JSON file says "
                f"{record.size[1]} x {record.size[0]}: correct one of them."
            )
        shown = np.flatnonzero(~record.crowds) if split == "train" else np.arange(len(record.crowds))
        boxes = tv_tensors.BoundingBoxes(torch.from_numpy(record.boxes[shown]), format="XYXY", canvas_size=size)
        sample.target = {"boxes": boxes, "labels": torch.from_numpy(record.labels[shown])}
        if self.has_masks:
            sample.target["masks"] = tv_tensors.Mask(self._masks(record, shown, path))
        if split != "train":
            sample.target["area"] = torch.from_numpy(record.areas[shown])
            sample.target["iscrowd"] = torch.from_numpy(record.crowds[shown].astype(np.int64))
        return sample

    def _masks(self, record: Record, shown: np.ndarray, path: Path) -> torch.Tensor:
        segmentations = json.loads(record.segmentations.tobytes())
        masks = np.zeros((len(shown), *record.size), dtype=np.uint8)
        for mask, index in zip(masks, shown, strict=True):
            try:
                mask[:] = decode_mask(segmentations[index], *record.size)
            except (ValueError, TypeError, KeyError, RuntimeError) as error:
                raise UserError(f"A mask of image {path} cannot be read ({error}): correct its JSON file.") from error
        return torch.from_numpy(masks)

    def _take_categories(self, path: Path, categories: dict[int, str]) -> None:
        count = len(categories)
        if count != self.num_classes:
            raise UserError(
                f"data.num_classes = {self.num_classes} must be {count}, the number of categories in {path}."
            )
        ids, names = tuple(categories), tuple(categories.values())
        if self.category_ids is not None and (self.category_ids, self.class_names) != (ids, names):
            raise UserError(
                f"{path} must have the same categories as the file of the other split, with the same ids and names."
            )
        self.category_ids, self.class_names = ids, names


def read_records(path: Path, with_segmentations: bool) -> tuple[dict[int, str], list[Record]]:
    """Read a JSON file in COCO's format.

    Args:
        path: The file.
        with_segmentations: Whether segmentations are kept.

    Returns:
        Names of the categories by their ids, in rising order, and the images with their objects, in the file's order.

    Raises:
        UserError: When there is no such file, or it is not in COCO's format; says what is wrong where.
    """
    content = _read_json(path)
    try:
        categories = {int(one["id"]): str(one["name"]) for one in sorted(content["categories"], key=lambda c: c["id"])}
        images = {
            one["id"]: (int(one["id"]), str(one["file_name"]), (int(one["height"]), int(one["width"])))
            for one in content["images"]
        }
        annotations = content["annotations"]
        if len(images) != len(content["images"]):
            raise UserError(f"{path} has several images with the same id: ids must differ.")
        if not images:
            raise UserError(f"{path} has no images: a split needs at least one.")
        objects: dict[Any, list[tuple[Any, ...]]] = {number: [] for number in images}
        indices, empty = {number: index for index, number in enumerate(categories)}, 0
        for number, annotation in enumerate(annotations):
            for name, known in (("image_id", images), ("category_id", indices)):
                if annotation[name] not in known:
                    raise UserError(
                        f"{path}: annotations[{number}] has {name} = {annotation[name]}, which the file does not "
                        "describe: correct or remove it."
                    )
            size = images[annotation["image_id"]][2]
            left, top, width, height = map(float, annotation["bbox"])
            box = max(left, 0.0), max(top, 0.0), min(left + width, size[1]), min(top + height, size[0])
            if not (box[0] < box[2] and box[1] < box[3]):  # true for NaN, too
                empty += 1
                continue
            area = float(annotation.get("area", (box[2] - box[0]) * (box[3] - box[1])))
            label, is_crowd = indices[annotation["category_id"]], bool(annotation.get("iscrowd", 0))
            segmentation = annotation["segmentation"] if with_segmentations else None
            objects[annotation["image_id"]].append((box, label, area, is_crowd, segmentation))
    except KeyError as error:
        raise UserError(f"{path} is not in COCO's format: an entry lacks {error}.") from error
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not in COCO's format: {error}.") from error
    if empty:
        rank_zero_warn(
            f"{empty} of the {len(annotations)} boxes in {path} have no area within their images and are dropped."
        )
    return categories, [Record.of_objects(*image, objects[number]) for number, image in images.items()]


def _read_json(path: Path) -> Mapping[str, Any]:
    require(path.is_file(), "The file of data.root and data.annotations", str(path), "an existing file")
    rank_zero_info(f"Reading {path}, {path.stat().st_size / 1e6:,.0f} MB.")
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): write or download it again.") from error
