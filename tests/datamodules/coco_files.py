"""A small data set in COCO's form: category ids with gaps, crowds, and whatever else its files hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}]
IDS = (3, 17, 90)


def annotation(image_id: int, category_id: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    left, top, width, height = bbox
    right, bottom = left + width, top + height
    polygon = [left, top, right, top, right, bottom, left, bottom]
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "segmentation": [polygon]} | more


def content(images: int = 4) -> dict[str, Any]:
    """Images of 60 x 40 pixels with the ids 100, 101, ..., of which the last has no objects."""
    described = [{"id": 100 + index, "file_name": f"{index}.jpg", "height": 40, "width": 60} for index in range(images)]
    objects = [
        one
        for index in range(images - 1)
        for one in (annotation(100 + index, 17, [5, 10, 20, 20]), annotation(100 + index, 90, [30, 5, 25, 30]))
    ]
    return {"images": described, "annotations": objects, "categories": CATEGORIES}


def save(root: Path, split: str, described: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    """Write the JSON file of a split and its images, which are grey."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for image in described["images"]:
        pixels = np.full((image["height"], image["width"], 3), 40, np.uint8)
        if image["file_name"] not in without:
            Image.fromarray(pixels).save(root / split / image["file_name"], quality=95)
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(described))
    return path


def coco(root: Path) -> Path:
    """Write both splits, and return the root."""
    for split in ("train2017", "val2017"):
        save(root, split, content())
    return root
