"""Folders of images and masks: ADE20K's, and any others of that form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from datamodules.dense import DenseDataModule, Sample
from datamodules.dense_transforms import IGNORED
from mobilemamba.errors import UserError, require
from mobilemamba.images import find_images, open_image

EXAMPLE = "root/images/training/a.jpg with root/annotations/training/a.png"


class SegmentationDataModule(DenseDataModule):
    """Images below ``images/SPLIT`` and masks of the same names, ending in .png, below ``annotations/SPLIT``.

    A mask has one channel, or a palette, and holds class indices. A mask's 255 counts nowhere.

    Args:
        root: Folder of both.
        num_classes: Classes of a pixel; 150 in ADE20K.
        class_names_file: Text file with the name of a class in each line, in their order; null: no names.
        images: Folder of the images, below root.
        masks: Folder of the masks, below root.
        training: Folder of a split to train on, below both.
        validation: Folder of a split to validate and test on, below both.
        ignore_zero: Whether 0 in a mask means "no class", and k the class k - 1; as in ADE20K.
        predict_folder: Images to predict, in any depth of folders; null predicts the validation images.
        kwargs: Further options of DenseDataModule.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    def __init__(
        self,
        *,
        root: str,
        num_classes: int = 150,
        class_names_file: str | None = None,
        images: str = "images",
        masks: str = "annotations",
        training: str = "training",
        validation: str = "validation",
        ignore_zero: bool = True,
        predict_folder: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        require(2 <= num_classes <= IGNORED, "data.num_classes", num_classes, f"from 2 to {IGNORED}")
        self.root, self.images, self.masks = Path(root).expanduser(), images, masks
        self.folders = {"train": training, "val": validation, "test": validation, "predict": validation}
        self.ignore_zero = ignore_zero
        self.predict_folder = None if predict_folder is None else Path(predict_folder).expanduser()
        if class_names_file is not None:
            self.class_names = _names(Path(class_names_file).expanduser(), num_classes)
        self.files: dict[str, list[Path]] = {}

    def find(self, split: str) -> int:
        """Find the images of a split, and check that each has a mask."""
        folder = self.folder_of(split)
        if split == "predict" and self.predict_folder is not None:
            self.files[split] = find_images(folder, "data.predict_folder")
            return len(self.files[split])
        self.files[split] = find_images(folder, f"the folder of data.root for {split} images, such as {EXAMPLE}:")
        missing = [path for path in self.files[split] if split != "predict" and not self.mask_of(split, path).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(self.files[split])} images in {folder} have no mask; the first is "
                f"{missing[0].name}, whose mask would be {self.mask_of(split, missing[0])}."
            )
        return len(self.files[split])

    def folder_of(self, split: str) -> Path:
        """Return the folder of a split's images."""
        if split == "predict" and self.predict_folder is not None:
            return self.predict_folder
        return self.root / self.images / self.folders[split]

    def mask_of(self, split: str, image: Path) -> Path:
        """Return where the mask of an image is."""
        place = image.relative_to(self.folder_of(split))
        return (self.root / self.masks / self.folders[split] / place).with_suffix(".png")

    def read(self, split: str, index: int) -> Sample:
        """Return an image of a split with the classes of its pixels.

        Raises:
            UserError: When either cannot be read, sizes differ, or a class is none of the data's.
        """
        path = self.files[split][index]
        picture = open_image(path)
        sample = Sample(functional.to_image(picture), {}, str(path), str(path.relative_to(self.folder_of(split))))
        if split != "predict":
            sample.target["mask"] = tv_tensors.Mask(self._mask(self.mask_of(split, path), picture.size))
        return sample

    def _mask(self, path: Path, size: tuple[int, int]) -> torch.Tensor:
        try:
            with Image.open(path) as file:
                values = np.array(file)
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"Mask {path} cannot be read: {error}") from error
        if values.ndim != 2:
            raise UserError(
                f"Mask {path} has {values.shape[-1]} channels: it must have one, which holds class indices, or a "
                "palette."
            )
        if values.shape[::-1] != size:
            raise UserError(
                f"Mask {path} has {values.shape[1]} x {values.shape[0]} pixels, its image {size[0]} x {size[1]}: they "
                "must be equal."
            )
        classes = values.astype(np.int64)
        if self.ignore_zero:
            classes = np.where((classes == 0) | (classes == IGNORED), IGNORED, classes - 1)
        beyond = np.unique(classes[(classes >= self.num_classes) & (classes != IGNORED)])
        if len(beyond):
            first = int(beyond[0]) + self.ignore_zero
            raise UserError(
                f"Mask {path} holds the value {first}, but data.num_classes = {self.num_classes} and "
                f"data.ignore_zero = {self.ignore_zero}: correct these options "
                f"or the mask; {IGNORED} marks pixels of no class."
            )
        return torch.from_numpy(classes.astype(np.uint8))


def _names(path: Path, num_classes: int) -> tuple[str, ...]:
    if not path.is_file():
        raise UserError(f"data.class_names_file = {path} is no file: give a text file of names, or null.")
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    require(
        len(names) == num_classes, "data.class_names_file", str(path), f"of {num_classes} names; it has {len(names)}"
    )
    return names
