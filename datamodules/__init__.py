"""Data for training and evaluation, as Lightning DataModules."""

from datamodules.classification import ClassificationDataModule
from datamodules.digits import DigitsDataModule
from datamodules.imagenet import ImageNetDataModule
from datamodules.mixing import MixingConfig
from datamodules.transforms import AugmentationConfig
from mobilemamba.errors import UserError

__all__ = [
    "AugmentationConfig",
    "ClassificationDataModule",
    "DigitsDataModule",
    "ImageNetDataModule",
    "MixingConfig",
    "UserError",
]
