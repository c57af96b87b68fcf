"""What data of detection and segmentation have in common: options, loaders, seeds and joint augmentation."""

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
"""Of which the sizes of batches are that depend on their images, so that there are not too many."""

RECIPE_AUGMENTATION = DenseAugmentation()

LEAST = {"num_classes": 1, "image_size": 1, "batch_size": 1, "num_workers": 0, "loader_timeout": 0, "seed": 0}


@dataclass
class Sample:
    """An image with what is to be found in it.

    Args:
        image: Colours (3, H, W) in uint8.
        target: Tensors of torchvision's kinds by name: "mask" (H, W) for segmentation; "boxes" (N, 4) in XYXY,
            "labels" (N,) and "masks" (N, H, W) for detection; nothing to predict.
        path: Where it is from.
        name: The same, relative to the folder of its split.
        image_id: Its number in the data set; None for its index.
    """

    image: tv_tensors.Image
    target: dict[str, Any]
    path: str
    name: str
    image_id: int | None = None


class Picture(NamedTuple):
    """What predictions must know of an image in a batch.

    Args:
        path: Where it is from.
        name: The same, relative to the folder of its split.
        image_id: Its number in the data set.
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

    Images are float32 (B, 3, S, S), normalised, and padded at the bottom and on the right: with the mean colour, and in
    masks with 255, which counts nowhere. With resize = shorter, where nothing is cropped, a batch is as high and wide
    as its largest image.

    Attributes:
        finds_objects: Whether these are data of detection, with boxes, and not of segmentation.
        class_names: Names of the classes, if known.
        category_ids: Numbers of the classes in the data set's own files, if they have any.
        has_masks: Whether there are masks of objects.

    Args:
        num_classes: Classes, of pixels or of boxes.
        image_size: S in pixels.
        resize: What becomes S pixels long: fit scales the longer side to it, stretch both, which changes the ratio, and
            shorter the shorter side, unless the longer one would be more than data.longest_side.
        longest_side: Most pixels of a side with resize = shorter.
        batch_size: Images per batch and process. Null: in fit what follows from global_batch_size; where that says
            nothing, 8.
        global_batch_size: Images per optimiser step, over all processes and accumulated batches. Null: batch_size says
            it.
        num_workers: Loader processes per training process; 0 loads in the training process.
        loader_timeout: Seconds to wait for a batch of theirs before the run ends with an error; 0 waits for ever.
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
        require(len(mean) == len(std) == 3 and min(std) > 0, "data.std", std, "three numbers above 0, as data.mean has")
        require(longest_side >= image_size, "data.longest_side", longest_side, "data.image_size or more")
        allowed = "false: only boxes tell which crops are good"
        require(self.finds_objects or not augmentation.ssd_crop, "augmentation.ssd_crop", True, allowed)
        allowed = "fit or shorter with augmentation.crop = true and with another augmentation.scale than 1 to 1"
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
        """Make a batch of (image, target); to predict, of (image, picture)."""
        images, targets = zip(*samples, strict=True)
        batch = stacked(images, 0.0)
        return batch, stacked(targets, IGNORED) if isinstance(targets[0], Tensor) else list(targets)

    def setup(self, stage: str) -> None:
        """Find the images, once, and check that batches can be made of them.

        Raises:
            UserError: When the data are not as they must be; says what was expected.
        """
        if stage == "fit":
            self.divide_batch()
        for split in SPLITS_OF_STAGE[stage]:
            if split not in self.datasets:
                self.datasets[split] = DenseImages(self, split, self.find(split), self.transform(split))
        self.check_enough(stage, {split: len(dataset) for split, dataset in self.datasets.items()})

    def metadata(self) -> ModelMetadata:
        """Return what a network trained on these data must know of them."""
        size = (self.image_size, self.image_size)
        return ModelMetadata(size, self.mean, self.std, "bilinear", 1.0, self.class_names)

    def transform(self, split: str) -> v2.Transform:
        """Return what is done to an image of a split and its target together."""
        changes = self.augmentation if split == "train" else None
        outside = 0 if self.has_masks else IGNORED  # an object has no pixels there
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
    """Images of a split with their targets, transformed; a draw's seed alone decides its augmentation.

    Args:
        data: Reads them.
        split: Which images.
        length: How many.
        transform: What is done to an image and its target together.
    """

    def __init__(self, data: DenseDataModule, split: str, length: int, transform: v2.Transform) -> None:
        self.data, self.split, self.length, self.transform = data, split, length, transform

    def __len__(self) -> int:
        """Number of images."""
        return self.length

    def __getitem__(self, draw: Draw | int) -> tuple[Tensor, Any]:
        """Return the image (3, H, W) with its mask, its boxes or, to predict, its :class:`Picture`."""
        index, seed = draw if isinstance(draw, Draw) else (draw, 0)
        sample = self.data.read(self.split, index)
        size = (int(sample.image.shape[-2]), int(sample.image.shape[-1]))
        # Objects are found in the image as it is, so that sizes and masks are those of the data set.
        stays = "boxes" in sample.target and self.split != "train"
        with seeded(seed):
            image, target = self.transform(sample.image, {} if stays else sample.target)
        scaled = (int(image.shape[-2]), int(image.shape[-1]))
        height, width = self._padded_size(*scaled)
        normalised = padded(self.normalised(image), height, width, 0.0)  # the mean colour
        if not sample.target:
            return normalised, self.picture(sample, index, scaled)
        if "mask" in target:
            mask = target["mask"].as_subclass(Tensor).long()
            return normalised, padded(mask, height, width, IGNORED)
        if stays:
            plain = {name: value.as_subclass(Tensor) for name, value in sample.target.items()}
            return normalised, plain | {"size": torch.tensor(size), "scaled": torch.tensor(scaled)}
        kept = v2.SanitizeBoundingBoxes(min_size=1)(target)  # what the crop has left
        return normalised, {name: value.as_subclass(Tensor) for name, value in kept.items()}

    def normalised(self, image: Tensor) -> Tensor:
        """Return an image (3, H, W) of colours in [0, 1] as networks take it."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.data.mean, self.data.std))
        return (image.as_subclass(Tensor) - mean) / std

    @staticmethod
    def picture(sample: Sample, index: int, scaled: tuple[int, int]) -> Picture:
        """Return what is known of an image to predict, of the height and width in the batch."""
        number = index if sample.image_id is None else sample.image_id
        height, width = sample.image.shape[-2:]
        return Picture(sample.path, sample.name, number, (int(height), int(width)), scaled)

    def _padded_size(self, height: int, width: int) -> tuple[int, int]:
        size = self.data.image_size
        if self.data.resize != "shorter" or (self.split == "train" and self.data.augmentation.crop):
            return size, size
        return math.ceil(height / MULTIPLE) * MULTIPLE, math.ceil(width / MULTIPLE) * MULTIPLE
