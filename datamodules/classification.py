"""The common part of all data of image classification: options, loaders, seeds and mixing."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.chunks.reading import ImageChunks, NamedChunks
from datamodules.datasets import EvaluationImages, ReadableImages, TrainingBatch, TrainingImages, collate_readable
from datamodules.distillation import DistillationDataModule
from datamodules.fingerprints import augmentation_fingerprint, data_fingerprint
from datamodules.image_files import Images, Source, targets_of
from datamodules.likeliest_classes import all_probabilities
from datamodules.loaders import SPLITS_OF_STAGE
from datamodules.mixing import Mixer, MixingConfig
from datamodules.normalising import normalise
from datamodules.option_checks import check_options
from datamodules.sampling import TrainingSampler
from datamodules.stored_teacher import StoredTeacher
from datamodules.transforms import AugmentationConfig, TrainingTransform
from mobilemamba.errors import UserError
from mobilemamba.images import find_images, printable
from mobilemamba.metadata import ModelMetadata

LOGGER = logging.getLogger(__name__)

RECIPE_AUGMENTATION = AugmentationConfig()
RECIPE_MIXING = MixingConfig()


class ClassificationDataModule(DistillationDataModule):
    """Loaders of (images, targets), and of (images, paths) to predict; the options' defaults are the paper's recipe.

    Images are float32 (B, 3, H, W), normalised. In training the targets are probabilities (B, num_classes) after mixing
    and label smoothing, which happen on the device; in evaluation they are class indices (B,). The module splits data
    over processes itself, so the trainer runs with ``use_distributed_sampler: false``.

    Order, augmentation and mixing depend only on the seed, the epoch and the step: not on the number of loader
    processes or on a resume, after which an epoch continues with its next batch.

    A subclass loads the images, and declares only those options that are new or have another default.

    Args:
        num_classes: Classes of the targets.
        image_size: Height and width in pixels.
        batch_size: Images per batch and process. Null: computed from global_batch_size in fit, or 128 if that is null.
        global_batch_size: Images per optimiser step, over all processes and accumulated batches, so that a recipe is
            the same on any number of devices. Null: batch_size decides.
        num_workers: Loader processes per training process; 0 loads in the training process.
        loader_timeout: Seconds to wait for a batch of the loader processes before an error; 0 waits for ever.
        augmentation: Augmentation of single images.
        mixing: Mixing of batches.
        repeats: Draws of each image in a row (repeated augmentation).
        repeats_together: Whether all draws of an image are in one process, which decodes it once. Otherwise they are in
            different processes. With one process both are the same.
        mean: Channel means to normalise with.
        std: Channel standard deviations to normalise with.
        interpolation: Resampling filter of the evaluation resize.
        crop_pct: Side of the evaluation crop relative to the resized image.
        override_preprocessing: Evaluate with these options where weights expect others, instead of stopping.
        exif_orientation: Whether images are turned by their EXIF orientation; off in the paper's recipe. It is saved
            with the weights.
        balance: How far training draws are balanced over classes, from 0 (every image once in an epoch) to 1 (every
            class equally often): see :class:`datamodules.sampling.TrainingSampler`.
        all_formats: Whether to look for images of every format that Pillow decodes, not only for the usual ones.
        predict_folder: Images to predict, in any depth of folders; null predicts the validation images.
        on_corrupt: What to do with an unreadable image: skip it with a warning, or stop.
        max_corrupt: Largest number of unreadable images of a split that are skipped.
        seed: Seed of order, augmentation and mixing.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        image_size: int = 224,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        num_workers: int = 8,
        loader_timeout: float = 600.0,
        augmentation: AugmentationConfig = RECIPE_AUGMENTATION,
        mixing: MixingConfig = RECIPE_MIXING,
        repeats: int = 1,
        repeats_together: bool = False,
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        std: tuple[float, ...] = IMAGENET_DEFAULT_STD,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        crop_pct: float = 0.875,
        override_preprocessing: bool = False,
        exif_orientation: bool = False,
        balance: float = 0.0,
        all_formats: bool = False,
        predict_folder: str | None = None,
        on_corrupt: Literal["skip", "raise"] = "skip",
        max_corrupt: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_classes, self.image_size = num_classes, image_size
        self.set_batch_size(batch_size, global_batch_size)
        self.num_workers, self.augmentation, self.mixing = num_workers, augmentation, mixing
        self.loader_timeout = loader_timeout
        self.repeats, self.repeats_together, self.seed = repeats, repeats_together, seed
        self.mean, self.std, self.interpolation, self.crop_pct = tuple(mean), tuple(std), interpolation, crop_pct
        self.override_preprocessing = override_preprocessing
        self.exif_orientation, self.balance, self.all_formats = exif_orientation, balance, all_formats
        self.predict_folder = None if predict_folder is None else Path(predict_folder).expanduser()
        self.on_corrupt, self.max_corrupt = on_corrupt, max_corrupt
        self._check_options()
        self.class_names: tuple[str, ...] | None = None
        self.datasets: dict[str, ReadableImages] = {}
        self._corrupt_reported = 0
        self._mixer = Mixer(mixing, num_classes)

    @abstractmethod
    def load(self, split: str) -> Images[int]:
        """Return images with class indices, and set class_names if they are known.

        Args:
            split: "train", "val", or "test" where there are images to test on.
        """

    def missing(self) -> str:
        """Return an error message where the images are missing, otherwise ""."""
        return ""

    def has_test_images(self) -> bool:
        """Return whether there are test images besides the validation images."""
        return False

    def prediction_name(self, index: int, source: Source, target: int) -> str:
        """Return the name of a validation image in predictions: its path, if it has one."""
        return printable(str(source))

    def setup(self, stage: str) -> None:
        """Find the images, once, and check them before any long work.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            UserError: When images are missing or too few, or classes are wrong; says what was expected.
        """
        if stage == "fit":
            self.divide_batch()
            self._check_options()
        for split in SPLITS_OF_STAGE[stage]:
            if split not in self.datasets:
                self.datasets[split] = self._dataset(split)
        self.check_enough(stage, {split: len(dataset) for split, dataset in self.datasets.items()})

    def teardown(self, stage: str) -> None:
        """Warn at the end of the number of images that could not be read."""
        self._report_corrupt_images()

    def metadata(self) -> ModelMetadata:
        """Return classes and preprocessing, which are saved with a network."""
        return ModelMetadata(
            image_size=(self.image_size, self.image_size),
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            class_names=self.class_names,
            exif_orientation=self.exif_orientation,
        )

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Number of training images of each class, known after setup; used to weight classes."""
        return tuple(np.bincount(targets_of(self.datasets["train"].images), minlength=self.num_classes).tolist())

    @property
    def label_smoothing(self) -> float:
        """Probability mass of a training target that is spread evenly over all classes."""
        return self.mixing.label_smoothing

    @property
    def corrupt_count(self) -> int:
        """Unreadable images found so far, each counted once over all loader processes."""
        return sum(dataset.corrupt_count for dataset in self.datasets.values())

    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return what the views of training images depend on besides their seed; known after setup."""
        images = cast(Images[int], self.datasets["train"].images)
        augmentation = augmentation_fingerprint(self.augmentation, self.metadata())
        return {"data": data_fingerprint(images), "augmentation": augmentation}

    def use_stored_teacher(self, store: StoredTeacher, mixes: bool) -> None:
        """Train on the views of a store; training batches then also hold the teacher's probabilities."""
        super().use_stored_teacher(store, mixes)
        if not mixes:
            self._mixer = Mixer(replace(self.mixing, mixup=0, cutmix=0), self.num_classes)

    def train_dataloader(self) -> DataLoader[Any]:
        """Load augmented batches in a new order every epoch; see :meth:`LoaderDataModule.training_loader`."""
        images = cast(TrainingImages, self.datasets["train"])
        targets = targets_of(images.images) if self.balance else None
        options: dict[str, Any] = {"together": self.repeats_together, "sampler": self.sampler(images)}
        return self.labelled_loader(images, self.repeats, self.balance, targets, **options)

    def sampler(self, dataset: ReadableImages) -> Callable[..., TrainingSampler]:
        """Return the class of the training images' sampler, or another function that makes it."""
        return TrainingSampler

    def val_dataloader(self) -> DataLoader[Any]:
        """Load validation batches, each image once over all processes."""
        return self._evaluation_loader(self.datasets["val"])

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the test images or, where there are none, the validation images."""
        if not self.has_test_images():
            rank_zero_info("There are no images to test on: the validation images are used.")
        return self._evaluation_loader(self.datasets["test"])

    def predict_dataloader(self) -> DataLoader[Any]:
        """Load images to predict, with their paths."""
        return self._evaluation_loader(self.datasets["predict"])

    def validation_dataset(self) -> EvaluationImages:
        """Return (image, class index) by index, or None for an unreadable image, to use some without a loader."""
        return cast(EvaluationImages, self.datasets["val"])

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Any, ...]:
        """Normalise, erase and mix a training batch on its device; warn of unreadable images at the end of an epoch."""
        if self.trainer is None or not self.trainer.training:
            return batch
        if self.trainer.is_last_batch:
            self._report_corrupt_images()
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        seed = (self.seed, self.rank_and_world_size()[0], progress.total.processed)
        answer = batch.teacher_answer
        teacher = [] if answer is None else [all_probabilities(answer[0], answer[1], self.num_classes)]
        return self._mixer(*self.finish(batch), seed, *teacher)

    def finish(self, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
        """Return images, float32 (B, 3, H, W), and class indices (B,) of a batch: normalised, erased, not mixed."""
        images = normalise(batch.images, self.mean, self.std)
        self.augmentation.erasing.erase(images, batch.rectangles)
        return images, batch.targets

    def _check_options(self) -> None:
        if type(self) is ClassificationDataModule:
            raise UserError(
                "data.class_path must name data, such as ImageNetDataModule: add --data ImageNetDataModule, or put a "
                "config that names data before this one, such as --config s6."
            )
        check_options(self)

    def _dataset(self, split: str) -> ReadableImages:
        metadata, max_corrupt = self.metadata(), self.max_corrupt if self.on_corrupt == "skip" else 0
        if split == "predict":
            return EvaluationImages(self._prediction_images(), metadata, max_corrupt)
        images = self.load("val" if split == "test" and not self.has_test_images() else split)
        if split == "train":
            return TrainingImages(images, metadata, TrainingTransform(self.augmentation, metadata), max_corrupt)
        return EvaluationImages(images, metadata, max_corrupt)

    def _prediction_images(self) -> Images[str]:
        """Return images to predict with their printable paths, those in predict_folder relative to it."""
        folder = self.predict_folder
        if folder is not None:
            files = find_images(folder, "data.predict_folder", self.all_formats)
            return [(file, printable(file.relative_to(folder))) for file in files]
        images = self.load("val")
        if isinstance(images, ImageChunks):
            return NamedChunks(images)
        samples = (images[index] for index in range(len(images)))
        return [(source, self.prediction_name(index, source, target)) for index, (source, target) in enumerate(samples)]

    def _evaluation_loader(self, dataset: ReadableImages) -> DataLoader[Any]:
        batches = self.evaluation_batches(len(dataset))
        return self.loader(dataset, batch_sampler=batches, collate_fn=collate_readable)

    def _report_corrupt_images(self) -> None:
        count = self.corrupt_count
        if count > self._corrupt_reported:
            LOGGER.warning("%d image(s) could not be read so far: the warnings above name them.", count)
        self._corrupt_reported = count
