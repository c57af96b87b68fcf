"""Scenes composed of scikit-learn's handwritten digits: data of dense tasks without a download.

Several digits of different sizes and colours lie on a textured background, later ones over earlier ones. A scene's
image, boxes, masks and labels depend only on its seed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from datamodules.dense import DenseDataModule, Sample
from datamodules.dense_transforms import DenseAugmentation
from datamodules.digits import split_digits
from mobilemamba.errors import require

INK = 0.35
"""A pixel belongs to a digit above this share of the brightest level."""
SIDES = (0.35, 0.6)
"""Range of a digit's side, relative to the scene's."""
TRIES = 6
VALIDATION_SHARE = 0.2
SPLITS = {"train": 0, "val": 1, "test": 2, "predict": 1}
"""First part of the seeds of a split's scenes; scenes to evaluate also have other digits."""

MILD_AUGMENTATION = DenseAugmentation(scale=(0.9, 1.2), horizontal_flip=0.0, photometric=0.0)
VISIBLE = 0.4
"""Smallest visible share of a digit; one that is covered more counts as background and has no box."""


class Scene(NamedTuple):
    """An image and its digits.

    Args:
        image: Colours (S, S, 3) in uint8.
        masks: Visible pixels of each digit (N, S, S), bool.
        labels: Digits (N,), 0 to 9.
        boxes: Around the visible pixels (N, 4): left, top, right, bottom in pixels, the last two exclusive.
    """

    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray


def compose(seed: tuple[int, ...], size: int, most: int, is_training: bool) -> Scene:
    """Return the scene of a seed.

    Args:
        seed: Non-negative numbers.
        size: Height and width in pixels.
        most: Largest number of digits.
        is_training: Whether to use the training digits.
    """
    generator = np.random.default_rng(seed)
    pictures, classes = split_digits(VALIDATION_SHARE, is_training)
    image = _ground(generator, size)
    owner = np.full((size, size), -1)
    labels, areas = [], []
    for index in range(int(generator.integers(1, most + 1))):
        which = int(generator.integers(len(classes)))
        side = int(generator.uniform(*SIDES) * size)
        shape = Image.fromarray(pictures[which]).resize((side, side), Image.Resampling.BICUBIC)
        strength = np.asarray(shape, dtype=np.float32)[..., None] / 255
        ink = strength[..., 0] > INK
        # The best of a few random places, so that digits overlap but rarely hide each other.
        corners = generator.integers(0, size - side + 1, (TRIES, 2)).tolist()
        places = [(slice(top, top + side), slice(left, left + side)) for top, left in corners]
        place = min(places, key=lambda place: int((owner[place][ink] >= 0).sum()))
        colour = generator.uniform(0.6, 1.0, 3).astype(np.float32)
        image[place] = image[place] * (1 - strength) + colour * strength
        owner[place][ink] = index
        labels.append(int(classes[which]))
        areas.append(int(ink.sum()))
    masks = np.stack([owner == index for index in range(len(labels))])
    seen = masks.sum(axis=(1, 2)) > VISIBLE * np.array(areas)
    masks = masks[seen]
    pixels = (np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Scene(pixels, masks, np.array(labels, dtype=np.int64)[seen], _boxes(masks))


class DigitScenesDataModule(DenseDataModule):
    """Scenes of digits to segment: class 0 is the background, digit d is class d + 1.

    Args:
        num_classes: 11, or null for the same.
        image_size: Height and width of a scene in pixels.
        batch_size: Images per batch and process.
        num_workers: Loader processes; scenes are made quickly, so 0 is fast.
        scenes: Scenes of an epoch of training.
        validation_scenes: Scenes to validate on, and as many others to test on.
        most_digits: Largest number of digits in a scene.
        augmentation: Augmentation of training scenes; mild by default and without flips.
        mean: Channel means to normalise with.
        std: Channel standard deviations to normalise with.
        kwargs: Further options of DenseDataModule.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        image_size: int = 96,
        batch_size: int = 16,
        num_workers: int = 0,
        scenes: int = 640,
        validation_scenes: int = 96,
        most_digits: int = 4,
        augmentation: DenseAugmentation = MILD_AUGMENTATION,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        **kwargs: Any,
    ) -> None:
        count = 10 if self.finds_objects else 11
        require(num_classes in (None, count), "data.num_classes", num_classes, f"{count}, or null")
        require(image_size >= 32, "data.image_size", image_size, "32 or more: digits are a third of it")
        for name, value in (("scenes", scenes), ("validation_scenes", validation_scenes), ("most_digits", most_digits)):
            require(value > 0, f"data.{name}", value, "1 or more")
        super().__init__(
            num_classes=count,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            augmentation=augmentation,
            mean=mean,
            std=std,
            **kwargs,
        )
        self.scenes, self.validation_scenes, self.most_digits = scenes, validation_scenes, most_digits
        ground = () if self.finds_objects else ("ground",)
        self.class_names = (*ground, *map(str, range(10)))
        self.has_masks = self.finds_objects

    def find(self, split: str) -> int:
        """Return the number of scenes of a split."""
        return self.scenes if split == "train" else self.validation_scenes

    def read(self, split: str, index: int) -> Sample:
        """Return a scene with the classes of its pixels, or with its digits' boxes and masks."""
        scene = compose((SPLITS[split], index), self.image_size, self.most_digits, split == "train")
        image = tv_tensors.Image(torch.from_numpy(scene.image).permute(2, 0, 1))
        target = {} if split == "predict" else self.target(scene)
        name = f"scene-{index:03d}"
        return Sample(image, target, name, name)

    def target(self, scene: Scene) -> dict[str, Any]:
        """Return the classes of a scene's pixels."""
        classes = (scene.masks * (scene.labels + 1)[:, None, None]).sum(axis=0)
        return {"mask": tv_tensors.Mask(torch.from_numpy(classes.astype(np.uint8)))}


class DigitScenesDetectionDataModule(DigitScenesDataModule):
    """Scenes of digits to detect: boxes, masks and classes 0 to 9; for options see :class:`DigitScenesDataModule`."""

    finds_objects = True

    def target(self, scene: Scene) -> dict[str, Any]:
        """Return the digits' boxes, labels and masks."""
        size = (self.image_size, self.image_size)
        boxes = torch.from_numpy(scene.boxes.astype(np.float32))
        return {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
            "labels": torch.from_numpy(scene.labels),
            "masks": tv_tensors.Mask(torch.from_numpy(scene.masks)),
        }


def _ground(generator: np.random.Generator, size: int) -> np.ndarray:
    """Return a texture (S, S, 3) in [0, 0.5]: noise of several scales in one hue."""
    texture = np.zeros((size, size), dtype=np.float32)
    for cells in (4, 12, size):
        noise = Image.fromarray(generator.random((cells, cells)).astype(np.float32))
        texture += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / 3
    colour = generator.uniform(0.2, 0.5, 3).astype(np.float32)
    return np.clip(texture, 0, 1)[..., None] * colour


def _boxes(masks: np.ndarray) -> np.ndarray:
    """Return boxes (N, 4) around the pixels of masks (N, S, S), none of which is empty."""
    boxes = np.zeros((len(masks), 4), dtype=np.int64)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
