"""Data of segmentation in folders of images and masks, such as ADE20K."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from datamodules.dense import DenseDataModule, DenseImages, Sample
from datamodules.dense_transforms import IGNORED
from datamodules.mask_classes import MaskClasses
from datamodules.sampling import Draw, EvaluationBatchSampler
from mobilemamba.errors import UserError, require
from mobilemamba.images import find_images, open_image

EXAMPLE = "root/images/training/a.jpg with root/annotations/training/a.png"


class SegmentationDataModule(DenseDataModule):
    """Images below ``images/SPLIT`` and masks of the same names, ending in .png, below ``annotations/SPLIT``.

    A mask has one channel or a palette with class indices, or the colours that class_names_file lists. With
    resize = shorter, images are evaluated one at a time, and masks keep their own size: the paper's test, with a
    longest_side of 2048.

    Args:
        root: Folder of images and masks.
        num_classes: Classes of a pixel; 150 in ADE20K.
        class_names_file: Text file with the name of a class in each line, in their order; null: no names. A name may be
            followed by its colour in masks of three channels: "sky, 128, 128, 128". The name "ignore" marks a colour
            that is ignored.
        images: Folder of the images, below root.
        masks: Folder of the masks, below root.
        training: Folder of the training split, below both.
        validation: Folder of the split to validate and test on, below both.
        ignore_zero: Whether 0 in a mask means "no class", and k the class k - 1; as in ADE20K.
        ignore_index: Value in a mask that is ignored.
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
        ignore_index: int = IGNORED,
        predict_folder: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        require(2 <= num_classes <= IGNORED, "data.num_classes", num_classes, f"from 2 to {IGNORED}")
        self.root, self.images, self.masks = Path(root).expanduser(), images, masks
        self.folders = {"train": training, "val": validation, "test": validation, "predict": validation}
        require(0 <= ignore_index <= IGNORED, "data.ignore_index", ignore_index, f"from 0 to {IGNORED}")
        self.ignore_zero, self.ignore_index = ignore_zero, ignore_index
        self.predict_folder = None if predict_folder is None else Path(predict_folder).expanduser()
        self.classes = None
        if class_names_file is not None:
            self.classes = MaskClasses(Path(class_names_file).expanduser(), num_classes)
            self.class_names = self.classes.names
        self.files: dict[str, list[Path]] = {}

    def setup(self, stage: str) -> None:
        """Find the images, once, and check them before any long work.

        Raises:
            UserError: When images or masks are missing; says what was expected.
        """
        super().setup(stage)
        for split, dataset in self.datasets.items():
            if split != "train" and self.resize == "shorter":
                self.datasets[split] = WholeImages(self, split, len(dataset), dataset.transform)

    def evaluation_batches(self, length: int) -> EvaluationBatchSampler:
        """Return the batches of this process for a number of images; of one image each with resize = shorter.

        Raises:
            UserError: When there are too few images for all processes.
        """
        if self.resize != "shorter":
            return super().evaluation_batches(length)
        rank, world_size = self.rank_and_world_size()
        return EvaluationBatchSampler(range(length), 1, rank=rank, world_size=world_size)

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
        """Return the path of an image's mask."""
        place = image.relative_to(self.folder_of(split))
        return (self.root / self.masks / self.folders[split] / place).with_suffix(".png")

    def read(self, split: str, index: int) -> Sample:
        """Return an image of a split with the classes of its pixels.

        Raises:
            UserError: When either cannot be read, sizes differ, or a class is out of range.
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
        if values.shape[1::-1] != size:
            raise UserError(
                f"Mask {path} has {values.shape[1]} x {values.shape[0]} pixels, its image {size[0]} x {size[1]}: the "
                "sizes must be equal."
            )
        if values.ndim == 3 and values.shape[-1] > 2 and self.classes is not None and self.classes.colours:
            return torch.from_numpy(self.classes.of_colours(values, path))
        if values.ndim != 2:
            raise UserError(
                f"Mask {path} has {values.shape[-1]} channels: it must have one channel of class indices, or a "
                "palette; or list the classes' colours in data.class_names_file."
            )
        given = values.astype(np.int64)
        classes = np.where(given == self.ignore_index, IGNORED, given)
        if self.ignore_zero:
            classes = np.where((classes == 0) | (classes == IGNORED), IGNORED, classes - 1)
        beyond = (classes >= self.num_classes) & (classes != IGNORED)
        if beyond.any():
            raise UserError(
                f"Mask {path} has the value {given[beyond].min()}, but data.num_classes = {self.num_classes} and "
                f"data.ignore_zero = {self.ignore_zero}: correct these options or the mask; data.ignore_index = "
                f"{self.ignore_index} marks ignored pixels."
            )
        return torch.from_numpy(classes.astype(np.uint8))


class WholeImages(DenseImages):
    """Images with their own aspect ratio, and masks of their own size, at which metrics are computed."""

    def __getitem__(self, draw: Draw | int) -> tuple[torch.Tensor, Any]:
        """Return the image (3, H, W) with its mask (h, w) or, for prediction, its Picture."""
        index = draw.image if isinstance(draw, Draw) else draw
        sample = self.data.read(self.split, index)
        image = self.normalised(self.transform(sample.image))
        if sample.target:
            return image, sample.target["mask"].as_subclass(torch.Tensor).long()
        return image, self.picture(sample, index, (int(image.shape[-2]), int(image.shape[-1])))
