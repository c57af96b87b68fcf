"""The common part of all data of detection and segmentation: options, loaders, seeds and joint augmentation."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules.dense_transforms import IGNORED, DenseAugmentation, Resize, joint_transform, padded, stacked
from datamodules.loaders import SPLITS_OF_STAGE, LoaderDataModule
from datamodules.sampling import Draw
from datamodules.seeding import seeded
from mobilemamba.errors import require
from mobilemamba.metadata import ModelMetadata

MULTIPLE = 32
"""Batches of variable size are padded to multiples of this, so that there are few different sizes."""

RECIPE_AUGMENTATION = DenseAugmentation()

LEAST = {"num_classes": 1, "image_size": 1, "batch_size": 1, "num_workers": 0, "loader_timeout": 0, "seed": 0}


@dataclass
class Sample:
    """An image with its target.

    Args:
        image: Colours (3, H, W) in uint8.
        target: torchvision's tensors by name: "mask" (H, W) for segmentation; "boxes" (N, 4) in XYXY, "labels" (N,) and
            "masks" (N, H, W) for detection; empty for prediction.
        path: Path of the image.
        name: Path relative to the folder of its split.
        image_id: Its id in the data set; None for its index.
    """

    image: tv_tensors.Image
    target: dict[str, Any]
    path: str
    name: str
    image_id: int | None = None


class Picture(NamedTuple):
    """Description of an image in a batch, for predictions.

    Args:
        path: Path of the image.
        name: Path relative to the folder of its split.
        image_id: Its id in the data set.
        size: Height and width in pixels.
        scaled: Height and width in the batch, without padding.
    """

    path: str
    name: str
    image_id: int
    size: tuple[int, int]
    scaled: tuple[int, int]


class DenseDataModule(LoaderDataModule):
    """Loaders of images that are augmented and scaled together with their masks or boxes.

    Images are float32 (B, 3, S, S), normalised, and padded at the bottom and on the right with the mean colour; masks
    are padded with 255, which is ignored. With resize = shorter and without crops a batch is as high and wide as its
    largest image.

    Attributes:
        finds_objects: Whether these are data of detection, with boxes, and not of segmentation.
        class_names: Names of the classes, if known.
        category_ids: Ids of the classes in the data set's own files, if they have any.
        has_masks: Whether there are masks of objects.

    Args:
        num_classes: Classes, of pixels or of boxes.
        image_size: S in pixels.
        resize: What becomes S pixels long: fit scales the longer side to it, stretch both, which changes the ratio, and
            shorter the shorter side, unless the longer one would exceed data.longest_side.
        longest_side: Largest side in pixels with resize = shorter.
        batch_size: Images per batch and process. Null: computed from global_batch_size in fit, or 8 if that is null.
        global_batch_size: Images per optimiser step, over all processes and accumulated batches. Null: batch_size
            decides.
        num_workers: Loader processes per training process; 0 loads in the training process.
        loader_timeout: Seconds to wait for a batch of the loader processes before an error; 0 waits for ever.
        augmentation: Augmentation of training images.
        mean: Channel means to normalise with.
        std: Channel standard deviations to normalise with.
        seed: Seed of order and augmentation.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    DEFAULT_BATCH_SIZE = 8
    finds_objects = False

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: int = 512,
        resize: Resize = "fit",
        longest_side: int = 1333,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        num_workers: int = 8,
        loader_timeout: float = 600.0,
        augmentation: DenseAugmentation = RECIPE_AUGMENTATION,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.set_batch_size(batch_size, global_batch_size)
        self.num_classes, self.image_size, self.loader_timeout = num_classes, image_size, loader_timeout
        self.num_workers, self.augmentation, self.seed = num_workers, augmentation, seed
        for name, least in LEAST.items():
            require(getattr(self, name) >= least, f"data.{name}", getattr(self, name), f"{least} or more")
        require(len(mean) == 3, "data.mean", mean, "three numbers, one per colour")
        require(len(std) == 3 and min(std) > 0, "data.std", std, "three numbers above 0, one per colour")
        require(longest_side >= image_size, "data.longest_side", longest_side, "data.image_size or more")
        allowed = "false: these data have no boxes, which it needs"
        require(self.finds_objects or not augmentation.ssd_crop, "augmentation.ssd_crop", True, allowed)
        allowed = "fit or shorter with augmentation.crop = true, or with augmentation.scale other than 1 to 1"
        jitters = augmentation.crop or augmentation.scale != (1, 1)
        require(resize != "stretch" or not jitters, "data.resize", resize, allowed)
        self.resize, self.longest_side = resize, longest_side
        self.mean, self.std = tuple(mean), tuple(std)
        self.class_names: tuple[str, ...] | None = None
        self.category_ids: tuple[int, ...] | None = None
        self.has_masks = False
        self.datasets: dict[str, DenseImages] = {}

    @abstractmethod
    def find(self, split: str) -> int:
        """Find the images of a split, and return their number.

        Args:
            split: "train", "val", "test" or "predict".
        """

    @abstractmethod
    def read(self, split: str, index: int) -> Sample:
        """Return an image of a split with its target."""

    @staticmethod
    def collate(samples: list[tuple[Tensor, Any]]) -> Any:
        """Make a batch of (image, target), or of (image, picture) for prediction."""
        images, targets = zip(*samples, strict=True)
        batch = stacked(images, 0.0)
        return batch, stacked(targets, IGNORED) if isinstance(targets[0], Tensor) else list(targets)

    def setup(self, stage: str) -> None:
        """Find the images, once, and check them before any long work.

        Raises:
            UserError: When images are missing or too few; says what was expected.
        """
        if stage == "fit":
            self.divide_batch()
        for split in SPLITS_OF_STAGE[stage]:
            if split not in self.datasets:
                self.datasets[split] = DenseImages(self, split, self.find(split), self.transform(split))
        self.check_enough(stage, {split: len(dataset) for split, dataset in self.datasets.items()})

    def metadata(self) -> ModelMetadata:
        """Return classes and preprocessing, which are saved with a network."""
        size = (self.image_size, self.image_size)
        return ModelMetadata(size, self.mean, self.std, "bilinear", 1.0, self.class_names)

    def transform(self, split: str) -> v2.Transform:
        """Return the joint transform of an image and its target for a split."""
        changes = self.augmentation if split == "train" else None
        outside = 0 if self.has_masks else IGNORED  # masks of objects have no "ignored" value
        return joint_transform(self.image_size, self.resize, self.longest_side, self.mean, outside, changes)

    def train_dataloader(self) -> DataLoader[Any]:
        """Load augmented batches in a new order every epoch."""
        dataset = self.datasets["train"]
        return self.training_loader(dataset, len(dataset), collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader[Any]:
        """Load validation batches, each image once over all processes."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the images to test on."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Load images to predict, with their paths."""
        return self._evaluation_loader("predict")

    def _evaluation_loader(self, split: str) -> DataLoader[Any]:
        dataset = self.datasets[split]
        return self.loader(dataset, batch_sampler=self.evaluation_batches(len(dataset)), collate_fn=self.collate)


class DenseImages(Dataset[Any]):
    """Images of a split with their targets, transformed; the augmentation depends only on a draw's seed.

    Args:
        data: Reads the images.
        split: Name of the split.
        length: Number of images.
        transform: Joint transform of an image and its target.
    """

    def __init__(self, data: DenseDataModule, split: str, length: int, transform: v2.Transform) -> None:
        self.data, self.split, self.length, self.transform = data, split, length, transform

    def __len__(self) -> int:
        """Number of images."""
        return self.length

    def __getitem__(self, draw: Draw | int) -> tuple[Tensor, Any]:
        """Return the image (3, H, W) with its mask, its boxes or, for prediction, its :class:`Picture`."""
        index, seed = draw if isinstance(draw, Draw) else (draw, 0)
        sample = self.data.read(self.split, index)
        size = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
        # Detections are evaluated in the original image: its boxes and masks are not transformed.
        keeps_target = "boxes" in sample.target and self.split != "train"
        with seeded(seed):
            image, target = self.transform(sample.image, {} if keeps_target else sample.target)
        scaled = (int(image.shape[-2]), int(image.shape[-1]))
        height, width = self._padded_size(*scaled)
        normalised = padded(self.normalised(image), height, width, 0.0)  # the mean colour
        if not sample.target:
            return normalised, self.picture(sample, index, scaled)
        if "mask" in target:
            mask = target["mask"].as_subclass(Tensor).long()
            return normalised, padded(mask, height, width, IGNORED)
        if keeps_target:
            plain = {name: value.as_subclass(Tensor) for name, value in sample.target.items()}
            return normalised, plain | {"size": torch.tensor(size), "scaled": torch.tensor(scaled)}
        kept = v2.SanitizeBoundingBoxes(min_size=1)(target)  # drops boxes outside the crop
        return normalised, {name: value.as_subclass(Tensor) for name, value in kept.items()}

    def normalised(self, image: Tensor) -> Tensor:
        """Return an image (3, H, W) of colours in [0, 1], normalised."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.data.mean, self.data.std))
        return (image.as_subclass(Tensor) - mean) / std

    @staticmethod
    def picture(sample: Sample, index: int, scaled: tuple[int, int]) -> Picture:
        """Return the description of an image for prediction, with its height and width in the batch."""
        number = index if sample.image_id is None else sample.image_id
        height, width = sample.image.shape[-2:]
        return Picture(sample.path, sample.name, number, (int(height), int(width)), scaled)

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        size = self.data.image_size
        if self.data.resize != "shorter" or (self.split == "train" and self.data.augmentation.crop):
            return size, size
        return math.ceil(height / MULTIPLE) * MULTIPLE, math.ceil(width / MULTIPLE) * MULTIPLE
