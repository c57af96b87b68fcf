"""Data for training and evaluation, as Lightning DataModules."""

from datamodules.classification import ClassificationDataModule
from datamodules.digits import DigitsDataModule
from datamodules.image_files import DataFolderError
from datamodules.imagenet import ImageNetDataModule
from datamodules.mixing import MixingConfig
from datamodules.transforms import AugmentationConfig

__all__ = [
    "AugmentationConfig",
    "ClassificationDataModule",
    "DataFolderError",
    "DigitsDataModule",
    "ImageNetDataModule",
    "MixingConfig",
]
