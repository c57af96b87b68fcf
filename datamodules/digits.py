"""scikit-learn's handwritten digits, enlarged: real images without a download, for a first run on any machine.

1,797 digits of 8 x 8 pixels, a part of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin and Kaynak,
1998).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from datamodules.classification import ClassificationDataModule
from datamodules.image_files import Images, Source
from datamodules.mixing import MixingConfig
from datamodules.transforms import AugmentationConfig
from mobilemamba.errors import UserError, require

SPLIT_SEED = 0
BRIGHTEST = 16
"""The digits' grey levels go from 0 to 16."""

MILD_AUGMENTATION = AugmentationConfig(
    auto_augment=None,
    color_jitter=0.0,
    crop_scale=(0.8, 1.0),
    crop_ratio=(0.9, 1.1),
    horizontal_flip=0.0,
    rotation=8.0,
    translation=0.06,
    interpolation="bicubic",
    erasing_probability=0.0,
)
MILD_MIXING = MixingConfig(mixup=0.2, cutmix=0.0, label_smoothing=0.1)


class DigitsDataModule(ClassificationDataModule):
    """Handwritten digits 0 to 9, by default 1,437 to train on and 360 to validate, always the same ones.

    Args:
        digits: Which of them are classes, each once.
        train_per_class: Training images of each class at most, the first ones; null for all.
        num_classes: As many as there are digits; null is the same.
        image_size: Height and width in pixels that the 8 x 8 digits are enlarged to.
        batch_size: Images per batch and process. Null: in fit what follows from global_batch_size, else 64.
        num_workers: Loader processes; the images are in memory and small, so 0 is fast.
        augmentation: Augmentation of single images; mild by default and without flips.
        mixing: Mixing of batches; mild by default.
        mean: Channel means to normalise with.
        std: Channel standard deviations to normalise with.
        crop_pct: Side of the evaluation crop relative to the resized image.
        validation_share: Share of the digits to validate on; the split does not depend on the seed. A large share makes
            a harder task, with few training images and many to measure on.
        kwargs: Further options of ClassificationDataModule.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    DEFAULT_BATCH_SIZE = 64

    def __init__(
        self,
        *,
        digits: tuple[int, ...] = tuple(range(10)),
        train_per_class: int | None = None,
        num_classes: int | None = None,
        image_size: int = 64,
        batch_size: int | None = None,
        num_workers: int = 0,
        augmentation: AugmentationConfig = MILD_AUGMENTATION,
        mixing: MixingConfig = MILD_MIXING,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        crop_pct: float = 1.0,
        validation_share: float = 0.2,
        **kwargs: Any,
    ) -> None:
        if not digits or len(set(digits)) < len(digits) or not set(digits) <= set(range(10)):
            raise UserError(f"data.digits = {digits} must be digits from 0 to 9, each once.")
        count = len(digits)
        require(num_classes in (None, count), "data.num_classes", num_classes, f"{count}, one for each of data.digits")
        require(train_per_class is None or train_per_class > 0, "data.train_per_class", train_per_class, "1 or more")
        super().__init__(
            num_classes=count,
            image_size=image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            augmentation=augmentation,
            mixing=mixing,
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            **kwargs,
        )
        allowed = "a share above 0 and below 1"
        require(0 < validation_share < 1, "data.validation_share", validation_share, allowed)
        self.validation_share = validation_share
        self.digits, self.train_per_class = tuple(digits), train_per_class
        self.class_names = tuple(map(str, digits))

    def load(self, split: str) -> Images[int]:
        """Return the enlarged digits of a split."""
        pictures, digits = split_digits(self.validation_share, split == "train")
        most = self.train_per_class if split == "train" else None
        chosen = np.sort(np.concatenate([np.flatnonzero(digits == digit)[:most] for digit in self.digits]))
        return [(self._enlarge(pictures[index]), self.digits.index(int(digits[index]))) for index in chosen]

    def prediction_name(self, index: int, source: Source, target: int) -> str:
        """Return the name of an image in predictions, with its digit."""
        return f"digit-{target}-{index:03d}"

    def _enlarge(self, picture: np.ndarray) -> Image.Image:
        size = (self.image_size, self.image_size)
        return Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC).convert("RGB")


@cache
def split_digits(validation_share: float, is_training: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures (N, 8, 8) in uint8 and the digits (N,) of one part of a fixed split."""
    # scikit-learn is slow to import.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    parts = train_test_split(
        np.arange(len(digits.target)), test_size=validation_share, random_state=SPLIT_SEED, stratify=digits.target
    )
    chosen = parts[0 if is_training else 1]
    return (digits.images[chosen] * (255 / BRIGHTEST)).astype(np.uint8), digits.target[chosen]
