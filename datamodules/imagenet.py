"""ImageNet, or any data in folders named after their classes: root/{train,val}/<class>/<image>."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from datamodules.class_names import read_class_names
from datamodules.classification import ClassificationDataModule
from datamodules.datasets import Images
from datamodules.image_files import ImageFiles
from datamodules.mixing import MixingConfig
from datamodules.transforms import AugmentationConfig
from mobilemamba.errors import UserError

RECIPE_AUGMENTATION = AugmentationConfig()
RECIPE_MIXING = MixingConfig()


class ImageNetDataModule(ClassificationDataModule):
    """Photographs in class folders, as ImageNet-1k comes; the defaults are the paper's recipe.

    Args:
        root: Folder with train/ and val/, each with one folder of images per class.
        num_classes: Classes; the number of class folders must be the same.
        image_size: Height and width in pixels.
        batch_size: Images per batch and process; the recipe is 1024 over 8 processes.
        num_workers: Loader processes per training process.
        augmentation: Augmentation of single images.
        mixing: Mixing of batches.
        repeats: Draws of each image in a row (repeated augmentation).
        mean: Channel means to normalise with.
        std: Channel standard deviations to normalise with.
        interpolation: Resampling filter of the evaluation resize.
        crop_pct: Side of the evaluation crop relative to the resized image.
        class_names_file: Text file with a folder's name, a space and the class's readable name in each line, as in
            ImageNet's LOC_synset_mapping.txt; null keeps the folders' names.
        predict_folder: Images to predict, in any depth of folders; null predicts the validation images.
        on_corrupt: What to do with an unreadable image: leave it out and name it, or stop.
        max_corrupt: Most unreadable images that are left out before it stops.
        seed: Seed of order, augmentation and mixing.
    """

    def __init__(
        self,
        root: str = "imagenet",
        num_classes: int = 1000,
        image_size: int = 224,
        batch_size: int = 128,
        num_workers: int = 8,
        augmentation: AugmentationConfig = RECIPE_AUGMENTATION,
        mixing: MixingConfig = RECIPE_MIXING,
        repeats: int = 1,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        crop_pct: float = 0.875,
        class_names_file: str | None = None,
        predict_folder: str | None = None,
        on_corrupt: Literal["skip", "raise"] = "skip",
        max_corrupt: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_classes,
            image_size,
            batch_size,
            num_workers,
            augmentation,
            mixing,
            repeats,
            mean,
            std,
            interpolation,
            crop_pct,
            predict_folder,
            on_corrupt,
            max_corrupt,
            seed,
        )
        self.root = Path(root).expanduser()
        self.class_names_file = None if class_names_file is None else Path(class_names_file).expanduser()
        self.class_folders: tuple[str, ...] | None = None
        self._images: dict[str, ImageFiles] = {}

    def load(self, stage: str) -> None:
        """Scan the folders that the stage needs, once.

        Raises:
            UserError: When a folder is missing, empty or of other classes; names it and what was expected.
        """
        if stage == "predict" and self.predict_folder is not None:
            return
        splits = ("train", "val") if stage == "fit" else ("val",)
        for split in splits:
            if split not in self._images:
                self._scan(split)

    def training_images(self) -> Images[int]:
        """Return files and class indices of root/train."""
        return self._images["train"]

    def validation_images(self) -> Images[int]:
        """Return files and class indices of root/val."""
        return self._images["val"]

    def named_validation_images(self) -> Images[str]:
        """Return files of root/val with their paths."""
        return [(path, str(path)) for path, _ in self._images["val"]]

    def _scan(self, split: str) -> None:
        folder = self.root / split
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        if not classes:
            raise UserError(
                f"data.root = {self.root} is no ImageNet folder: expected images in {self.root}/train/<class>/ and "
                f"{self.root}/val/<class>/, found no class folders in {folder}. Without ImageNet, try "
                "`lightning fit --config experiments/quickstart.yaml`, which needs no download."
            )
        self._check_classes(split, tuple(classes))
        samples = make_dataset(
            str(folder), {name: index for index, name in enumerate(classes)}, IMG_EXTENSIONS, allow_empty=True
        )
        empty = sorted(set(range(len(classes))) - {target for _, target in samples})
        if empty:
            names = ", ".join(str(folder / classes[index]) for index in empty[:5])
            raise UserError(
                f"{len(empty)} class folder(s) hold no images: {names}. Add images ending in "
                f"{', '.join(IMG_EXTENSIONS)}, or remove the folder(s) from train and val and set data.num_classes."
            )
        self._images[split] = ImageFiles(folder, samples)

    def _check_classes(self, split: str, classes: tuple[str, ...]) -> None:
        if self.class_folders is not None and classes != self.class_folders:
            other = set(self.class_folders)
            raise UserError(
                f"The classes of {self.root}/train and {self.root}/val differ: only in {split} "
                f"{sorted(set(classes) - other)[:5]}, missing in {split} {sorted(other - set(classes))[:5]}."
            )
        if len(classes) != self.num_classes:
            raise UserError(
                f"{self.root / split} has {len(classes)} class folders, but data.num_classes = {self.num_classes}: "
                f"set --data.num_classes {len(classes)} (the network follows), or check the folder."
            )
        self.class_folders = classes
        self.class_names = (
            classes if self.class_names_file is None else read_class_names(self.class_names_file, classes)
        )
