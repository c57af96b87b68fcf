"""ImageNet, or any data in folders named after their classes: root/{train,val}/<class>/<image>."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from datamodules.class_names import read_class_names
from datamodules.classification import ClassificationDataModule
from datamodules.image_files import ImageFiles, Images
from mobilemamba.errors import UserError


class ImageNetDataModule(ClassificationDataModule):
    """Photographs in class folders, as ImageNet-1k comes; the defaults are the paper's recipe.

    Args:
        root: Folder with train/ and val/, each with one folder of images per class.
        class_names_file: Text file with a folder's name, a space and the class's readable name in each line, as in
            ImageNet's LOC_synset_mapping.txt; null keeps the folders' names.
        kwargs: Options of ClassificationDataModule; num_classes must be the number of class folders.
    """

    def __init__(self, root: str = "imagenet", class_names_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root).expanduser()
        self.class_names_file = None if class_names_file is None else Path(class_names_file).expanduser()
        self.class_folders: tuple[str, ...] | None = None

    def load(self, split: str) -> Images[int]:
        """Scan root/train or root/val.

        Raises:
            UserError: When the folder is missing, empty or of other classes; names it and what was expected.
        """
        folder = self.root / split
        try:
            classes, indices = find_classes(folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"data.root = {self.root} is no ImageNet folder: expected images in {self.root}/train/<class>/ and "
                f"{self.root}/val/<class>/, found no class folders in {folder}. Without ImageNet, try "
                "`lightning fit --config experiments/quickstart.yaml`, which needs no download."
            ) from error
        self._check_classes(split, tuple(classes))
        samples = make_dataset(folder, indices, IMG_EXTENSIONS, allow_empty=True)
        empty = sorted(set(indices.values()) - {target for _, target in samples})
        if empty:
            names = ", ".join(str(folder / classes[index]) for index in empty[:5])
            raise UserError(
                f"{len(empty)} class folder(s) hold no images: {names}. Add images ending in "
                f"{', '.join(IMG_EXTENSIONS)}, or remove the folder(s) from train and val and set data.num_classes."
            )
        return ImageFiles(folder, samples)

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
