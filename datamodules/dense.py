"""What data of detection and segmentation have in common: options, loaders, seeds and joint augmentation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from datamodules.loaders import LoaderDataModule
from datamodules.sampling import Draw
from datamodules.seeding import seeded
from mobilemamba.errors import UserError, require
from mobilemamba.metadata import ModelMetadata

IGNORED = 255
"""Index of pixels that belong to no class; padding is of this kind too."""

SPLITS_OF_STAGE = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}


@dataclass(frozen=True)
class DenseAugmentation:
    """How a training image and what belongs to it are changed together.

    Args:
        scale: Range of the size relative to the image fitted into the crop; what sticks out is cropped at random.
        horizontal_flip: Chance of a mirror image.
        photometric: Chance of other brightness, contrast, saturation and hue.

    Raises:
        UserError: When a value is out of range.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    horizontal_flip: float = 0.5
    photometric: float = 0.5

    def __post_init__(self) -> None:
        """Check every field."""
        require(0 < self.scale[0] <= self.scale[1], "augmentation.scale", self.scale, "two rising positive numbers")
        for name in ("horizontal_flip", "photometric"):
            require(0 <= getattr(self, name) <= 1, f"augmentation.{name}", getattr(self, name), "from 0 to 1")


RECIPE_AUGMENTATION = DenseAugmentation()


@dataclass
class Sample:
    """An image with what is to be found in it.

    Args:
        image: Colours (3, H, W) in uint8.
        target: Tensors of torchvision's kinds by name: "mask" (H, W) for segmentation; "boxes" (N, 4) in XYXY,
            "labels" (N,) and "masks" (N, H, W) for detection; nothing to predict.
        path: Where it is from.
    """

    image: tv_tensors.Image
    target: dict[str, Any]
    path: str


class DenseDataModule(LoaderDataModule):
    """Loaders of images that are augmented and scaled together with their masks or boxes.

    Images are float32 (B, 3, S, S), normalised. In evaluation the longer side is scaled to S and the rest padded at the
    bottom and on the right: with the mean colour, and in masks with 255, which counts nowhere.

    Args:
        num_classes: Classes, of pixels or of boxes.
        image_size: S in pixels.
        batch_size: Images per batch and process.
        num_workers: Loader processes per training process; 0 loads in the training process.
        augmentation: Augmentation of training images.
        mean: Channel means to normalise with.
        std: Channel standard deviations to normalise with.
        seed: Seed of order and augmentation.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        image_size: int = 512,
        batch_size: int = 8,
        num_workers: int = 8,
        augmentation: DenseAugmentation = RECIPE_AUGMENTATION,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least = {"num_classes": 1, "image_size": 1, "batch_size": 1, "num_workers": 0, "seed": 0}
        given = dict(zip(least, (num_classes, image_size, batch_size, num_workers, seed), strict=True))
        for name, value in given.items():
            require(value >= least[name], f"data.{name}", value, f"{least[name]} or more")
        require(len(mean) == len(std) == 3 and min(std) > 0, "data.std", std, "three numbers above 0, as data.mean has")
        self.num_classes, self.image_size, self.batch_size = num_classes, image_size, batch_size
        self.num_workers, self.augmentation, self.seed = num_workers, augmentation, seed
        self.mean, self.std = tuple(mean), tuple(std)
        self.class_names: tuple[str, ...] | None = None
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
        """Make a batch of (image, target); to predict, of (image, path)."""
        images, targets = zip(*samples, strict=True)
        paths_or_masks = torch.stack(targets) if isinstance(targets[0], Tensor) else list(targets)
        return torch.stack(images), paths_or_masks

    def setup(self, stage: str) -> None:
        """Find the images, once, and check that batches can be made of them.

        Raises:
            UserError: When the data are not as they must be; says what was expected.
        """
        for split in SPLITS_OF_STAGE[stage]:
            if split not in self.datasets:
                self.datasets[split] = DenseImages(self, split, self.find(split), self.transform(split == "train"))
        share = len(self.datasets["train"]) // self.rank_and_world_size()[1] if stage == "fit" else self.batch_size
        if share < self.batch_size:
            raise UserError(
                f"data.batch_size = {self.batch_size} is more than the {share} training images of a process: use a "
                "smaller batch size or fewer devices."
            )

    def metadata(self) -> ModelMetadata:
        """Return what a network trained on these data must know of them."""
        size = (self.image_size, self.image_size)
        return ModelMetadata(size, self.mean, self.std, "bilinear", 1.0, self.class_names)

    def transform(self, is_training: bool) -> v2.Transform:
        """Return what is done to an image and its target together."""
        size, changes = self.image_size, self.augmentation
        mean_colour = [round(255 * level) for level in self.mean]
        padding: dict[Any, Any] = {tv_tensors.Image: mean_colour, tv_tensors.Mask: IGNORED}
        steps: list[v2.Transform] = [v2.Resize(None, max_size=size, antialias=True)]
        if is_training:
            distortion = v2.RandomApply([v2.RandomPhotometricDistort()], p=changes.photometric)
            steps = [distortion, v2.ScaleJitter((size, size), changes.scale, antialias=True)]
            steps.append(v2.RandomCrop(size, pad_if_needed=True, fill=padding))
            steps.append(v2.RandomHorizontalFlip(changes.horizontal_flip))
        return v2.Compose([*steps, v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)])

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
        """Return the image (3, S, S) with its mask, its boxes or its path."""
        index, seed = draw if isinstance(draw, Draw) else (draw, 0)
        sample = self.data.read(self.split, index)
        with seeded(seed):
            image, target = self.transform(sample.image, sample.target)
        size = self.data.image_size
        padded = torch.zeros(3, size, size)  # the mean colour
        padded[:, : image.shape[-2], : image.shape[-1]] = self.normalised(image)
        if not target:
            return padded, sample.path
        return padded, self.target(target)

    def normalised(self, image: Tensor) -> Tensor:
        """Return an image (3, H, W) of colours in [0, 1] as networks take it."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.data.mean, self.data.std))
        return (image.as_subclass(Tensor) - mean) / std

    def target(self, target: dict[str, Any]) -> Any:
        """Return a mask (S, S) of class indices, or boxes and labels that the crop has left."""
        if "mask" in target:
            mask = target["mask"].as_subclass(Tensor)
            size = self.data.image_size
            whole = mask.new_full((size, size), IGNORED, dtype=torch.int64)
            whole[: mask.shape[-2], : mask.shape[-1]] = mask
            return whole
        kept = v2.SanitizeBoundingBoxes(min_size=1)(target)
        return {name: value.as_subclass(Tensor) for name, value in kept.items()}
