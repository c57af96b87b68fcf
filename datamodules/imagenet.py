"""ImageNet, or your own photographs: in folders named after their classes, or listed in a table."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader

from datamodules.block_sampling import BlockSampler
from datamodules.chunks.reading import ImageChunks
from datamodules.chunks.source import ChunkFolders, is_prepared
from datamodules.chunks.storage import ObjectStorage, is_url
from datamodules.classes import check_number_of_classes, read_class_names, readable_names
from datamodules.classification import ClassificationDataModule
from datamodules.datasets import ReadableImages
from datamodules.folders import ClassFolders
from datamodules.image_files import ImageFiles, Images
from datamodules.sampling import TrainingSampler
from datamodules.tables import ImageTable
from datamodules.validation_split import check_division, choose_validation, write_split
from mobilemamba.errors import UserError, require
from mobilemamba.images import printable

ROOT = "imagenet"


class ImageNetDataModule(ClassificationDataModule):
    """Photographs in class folders, such as ImageNet-1k or your own; the defaults are the paper's recipe.

    ``lightning test`` uses test images, in root/test/<class>/ or in a table's split "test", where there are any.

    Args:
        root: Folder with train/ and val/, each with one folder of images per class; with validation_share, folder with
            one folder of images per class. Or a folder that ``mobilemamba prepare`` has written, or a copy of it in
            object storage, such as s3://BUCKET/FOLDER.
        class_names_file: Text file with a folder's name, a space and the class's readable name in each line, as in
            ImageNet's LOC_synset_mapping.txt; null keeps the folders' names.
        table: CSV or Parquet file with columns path, label and split (train, val or test), instead of class folders.
            Paths are relative to root if it is given, otherwise to the table's folder.
        validation_share: Share of each class's images to validate on, if they are not split yet; chosen by seed and
            path, and written into the run's folder as split.csv. A resumed run keeps its validation images, and trains
            on images that were added. Null takes val/, or the table's split.
        num_classes: Classes of the targets; null for as many as the data have.
        shuffle_chunks: Number of chunks in object storage whose images are shuffled together; chunks are in a random
            order, and each process reads some of them. 0 shuffles all images, which soon needs all chunks on disk.
        cache: Folder on disk for files from object storage.
        cache_gigabytes: Largest size of the cache on each machine in 1e9 bytes; null keeps all.
        all_formats: Whether to look for images of every format that Pillow decodes, not only for the usual ones.
        kwargs: Further options of ClassificationDataModule.

    Raises:
        UserError: When an option is out of range, or num_classes is null and no classes are found.
    """

    def __init__(
        self,
        root: str = ROOT,
        class_names_file: str | None = None,
        table: str | None = None,
        validation_share: float | None = None,
        num_classes: int | None = 1000,
        all_formats: bool = False,
        shuffle_chunks: int = 8,
        cache: str = "~/.cache/mobilemamba",
        cache_gigabytes: float | None = None,
        **kwargs: Any,
    ) -> None:
        if validation_share is not None and not 0 < validation_share < 1:
            raise UserError(
                f"data.validation_share = {validation_share} must be a share above 0 and below 1, or null for images "
                "that are split already."
            )
        undivided = validation_share is not None
        self.root, self.validation_share = Path(root).expanduser(), validation_share
        self.source: ClassFolders | ImageTable | ChunkFolders
        self.shuffle_chunks = shuffle_chunks
        require(shuffle_chunks >= 0, "data.shuffle_chunks", shuffle_chunks, "0 or more")
        require(cache_gigabytes is None or cache_gigabytes > 0, "data.cache_gigabytes", cache_gigabytes, "above 0")
        if is_url(root) or is_prepared(self.root):
            if undivided or table is not None:
                raise UserError(
                    f"data.root = {root} holds chunks, which are split already: leave out data.validation_share and "
                    "data.table."
                )
            if is_url(root):
                storage = ObjectStorage(root, Path(cache).expanduser(), cache_gigabytes)
                self.source = ChunkFolders(storage.folder, storage)
            else:
                self.source = ChunkFolders(self.root)
        elif table is None:
            self.source = ClassFolders(self.root, all_formats, undivided)
        else:
            file = Path(table).expanduser()
            self.source = ImageTable(file, file.absolute().parent if root == ROOT else self.root, undivided)
        super().__init__(
            num_classes=self._count_classes() if num_classes is None else num_classes, all_formats=all_formats, **kwargs
        )
        self.class_names_file = None if class_names_file is None else Path(class_names_file).expanduser()
        self._validation_paths: list[str] | None = None

    def missing(self) -> str:
        """Return an error message where the folder or table is missing, otherwise ""."""
        return self.source.missing()

    def has_test_images(self) -> bool:
        """Return whether there are images to test on."""
        return self.source.has("test")

    def load(self, split: str) -> Images[int]:
        """Find the images of a split.

        Raises:
            UserError: When images are missing or classes differ; says what was found and what was expected.
        """
        self._name_classes()
        if self.validation_share is None or split == "test":
            return self.source.load(split)
        return self._undivided.where(self._validation_mask if split == "val" else ~self._validation_mask)

    def train_dataloader(self) -> DataLoader[Any]:
        """Load augmented batches, and write the split of the images into the run's folder.

        It is not written earlier, since the folder may be refused because another run's checkpoints are in it.
        """
        if self.validation_share is not None and self.trainer is not None:
            folder = self.trainer.log_dir  # the same in all processes
            if folder is not None and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
                parts = {"train": self._undivided.where(~self._validation_mask)}
                parts["val"] = self._undivided.where(self._validation_mask)
                write_split(Path(folder) / "split.csv", parts, self.source.classes)
        return super().train_dataloader()

    def sampler(self, dataset: ReadableImages) -> Callable[..., TrainingSampler]:
        """Return what makes the sampler of training images: BlockSampler for chunks in object storage.

        Raises:
            UserError: When data.balance is set for these.
        """
        images, source = dataset.images, self.source
        is_stored = isinstance(source, ChunkFolders) and source.storage is not None
        if not is_stored or not self.shuffle_chunks or not isinstance(images, ImageChunks):
            return super().sampler(dataset)
        require(self.balance == 0, "data.balance", self.balance, "0 for chunks in object storage, or shuffle_chunks 0")
        return partial(BlockSampler, images.members(), self.shuffle_chunks)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a resumed run, with the paths of the validation images."""
        state = super().state_dict()
        if self.validation_share is not None:
            state["validation_paths"] = self._undivided.where(self._validation_mask).paths
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state, with the validation images of the run that wrote a checkpoint."""
        super().load_state_dict(state_dict)
        paths = state_dict.get("validation_paths")
        if self.validation_share is None or paths is None:
            return
        self._validation_paths = paths
        self.__dict__.pop("_validation_mask", None)  # computed again at its next use
        for split in self.datasets:
            if split != "predict" or self.predict_folder is None:
                self.datasets[split] = self._dataset(split)

    @cached_property
    def _undivided(self) -> ImageFiles:
        """All images that are split into training and validation images."""
        if self.source.has("val"):
            raise UserError(
                f"data.validation_share = {self.validation_share} must be null, since there are validation images "
                "already; or remove these."
            )
        assert not isinstance(self.source, ChunkFolders)  # refused with validation_share
        return self.source.load("train")

    @cached_property
    def _validation_mask(self) -> np.ndarray:
        """Mask of the validation images among these."""
        images, share = self._undivided, self.validation_share
        assert share is not None
        if self._validation_paths is None:
            mask = choose_validation(images, share, self.seed)
            option = f"data.validation_share = {share}"
        else:
            mask, option = np.isin(images.paths, self._validation_paths), "The checkpoint"
            gone = len(self._validation_paths) - int(mask.sum())
            if gone:
                rank_zero_info(f"{gone} validation images of the checkpoint are no longer in {images.folder}.")
        check_division(images, mask, self.source.classes, option)
        return mask

    def _count_classes(self) -> int:
        try:
            return len(self.source.classes)
        except UserError as error:
            if not self.missing():
                raise
            raise UserError(
                f"data.num_classes = null counts the classes: {error} To use weights without their training data, give "
                "their number of classes."
            ) from error

    def _name_classes(self) -> None:
        classes, file = self.source.classes, self.class_names_file
        if len(classes) != self.num_classes:
            known = None if file is None else list(read_class_names(file))
            check_number_of_classes(self.source.counts(), self.num_classes, known, str(self.root))
        self.class_names = tuple(map(printable, classes)) if file is None else readable_names(file, classes)
