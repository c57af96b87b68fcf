"""Images in folders named after their classes."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from datamodules.classes import SHOWN, check_class_names, check_every_class_has_images
from datamodules.image_files import ImageFiles
from mobilemamba.errors import UserError
from mobilemamba.images import class_folders, image_endings, list_images, printable

SPLITS = ("train", "val", "test")


class ClassFolders:
    """Images in root/<split>/<class>/ or, where they are not split yet, in root/<class>/.

    A folder counts as a split only if it holds folders: a class may be called "train".

    Args:
        root: Folder of the splits or classes.
        all_formats: Whether to look for every format that Pillow decodes.
        undivided: Whether training and validation images are together, in root/<class>/ or root/train/<class>/.
    """

    def __init__(self, root: Path, all_formats: bool, undivided: bool) -> None:
        self.root, self.all_formats, self.undivided = root, all_formats, undivided

    def has(self, split: str) -> bool:
        """Return whether there is a folder of a split, with folders of classes."""
        return bool(class_folders(self.root / split))

    def missing(self) -> str:
        """Return an error message where a split to fit has no folders of classes, otherwise ""."""
        if self.undivided and not self._names("train"):
            return f"data.root = {self.root} has no folders of classes: expected images in {self.root}/<class>/."
        needed = () if self.undivided else SPLITS[:2]
        return next((self._no_classes(split) for split in needed if not self.has(split)), "")

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes: the folders of the first split that exists.

        Raises:
            UserError: When there are none.
        """
        names = next((names for split in SPLITS if (names := self._names(split))), None)
        if names is None:
            raise UserError(self.missing())
        check_class_names(names, str(self.root))
        return tuple(names)

    def counts(self) -> dict[str, int]:
        """Return every class with its number of images in the first split that exists."""
        folder = next(self._folder(split) for split in SPLITS if self._names(split))
        return {name: len(list_images(folder / name, self.all_formats)) for name in self.classes}

    def load(self, split: str) -> ImageFiles:
        """Find the images of a split, "train" for all that are not split yet.

        Raises:
            UserError: When the folder is missing, or its classes differ or are empty; says what was expected.
        """
        names, folder = self._names(split), self._folder(split)
        if not names:
            raise UserError(self._no_classes(split))
        only, lacking = sorted(set(names) - set(self.classes)), sorted(set(self.classes) - set(names))
        if only or (lacking and split != "test"):
            raise UserError(
                printable(
                    f"The classes of {folder} differ from the others in {self.root}: only in {split} {only[:SHOWN]}, "
                    f"missing in {split} {lacking[:SHOWN]}."
                )
            )
        index = {name: number for number, name in enumerate(self.classes)}
        place = "" if folder == self.root else split
        found = [
            (os.path.join(place, name, image), index[name])
            for name in names
            for image in list_images(folder / name, self.all_formats)
        ]
        images = ImageFiles(self.root, [path for path, _ in found], [target for _, target in found])
        if split != "test":
            endings = ", ".join(image_endings(self.all_formats))
            remedy = f"Add images ending in {endings}, or remove the folder(s) from train and val."
            check_every_class_has_images(images.targets, self.classes, str(folder), remedy)
        return images

    def _folder(self, split: str) -> Path:
        return self.root if self.undivided and split == "train" and not self.has(split) else self.root / split

    def _names(self, split: str) -> list[str]:
        names = class_folders(self._folder(split))
        if self._folder(split) == self.root:  # there may be a split test/ among the classes
            names = [name for name in names if not (name in SPLITS and self.has(name))]
        return names

    def _no_classes(self, split: str) -> str:
        message = (
            f"data.root = {self.root} must be a folder like ImageNet's, with images in {self.root}/train/<class>/ and "
            f"{self.root}/val/<class>/: found no class folders in {self.root / split}. "
        )
        if class_folders(self.root):
            return message + "To split the images into both, set data.validation_share, such as 0.2."
        return (
            message + "Without ImageNet, try `lightning fit --config experiments/quickstart.yaml`, which needs no "
            "download."
        )
