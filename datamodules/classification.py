"""What all image classification data have in common: loaders, seeds, mixing, and what they say of themselves."""

from __future__ import annotations

import logging
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.datasets import CorruptImages, EvaluationImages, Images, TrainingImages, collate_readable
from datamodules.image_files import find_images
from datamodules.mixing import Mixer, MixingConfig
from datamodules.sampling import EvaluationBatchSampler, RepeatingSampler, TrainingSampler
from datamodules.transforms import AugmentationConfig, training_transform
from mobilemamba.errors import UserError
from mobilemamba.metadata import ModelMetadata
from mobilemamba.preprocessing import evaluation_transform

LOGGER = logging.getLogger(__name__)


class ClassificationDataModule(LightningDataModule):
    """Loaders of (images, targets), and of (images, paths) to predict.

    Images are float32 (B, 3, H, W), normalised. In training the targets are probabilities (B, num_classes) after mixing
    and label smoothing, which happen on the device; in evaluation they are class indices (B,). The module splits data
    over processes itself, so the trainer runs with ``use_distributed_sampler: false``.

    Orders, augmentations and mixing depend on the seed, the epoch and the step alone: not on the number of loader
    processes, nor on a resume between epochs.

    Args:
        num_classes: Classes of the targets.
        image_size: Height and width in pixels.
        batch_size: Images per batch and process.
        num_workers: Loader processes per training process; 0 loads in the training process.
        augmentation: Augmentation of single images.
        mixing: Mixing of batches.
        repeats: Draws of each image in a row (repeated augmentation).
        mean: Channel means to normalise with.
        std: Channel standard deviations to normalise with.
        interpolation: Resampling filter of the evaluation resize.
        crop_pct: Side of the evaluation crop relative to the resized image.
        predict_folder: Images to predict, in any depth of folders; None predicts the validation images.
        on_corrupt: What to do with an unreadable image.
        max_corrupt: Most unreadable images that are skipped in a process.
        seed: Seed of order, augmentation and mixing.

    Raises:
        UserError: When an option is out of range; names field, value and remedy.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        batch_size: int,
        num_workers: int,
        augmentation: AugmentationConfig,
        mixing: MixingConfig,
        repeats: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str,
        crop_pct: float,
        predict_folder: str | None,
        on_corrupt: Literal["skip", "raise"],
        max_corrupt: int,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_classes", num_classes, 1),
            ("image_size", image_size, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("repeats", repeats, 1),
            ("max_corrupt", max_corrupt, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise UserError(f"data.{name} = {value} must be {least} or more.")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(
                f"data.mean = {tuple(mean)} with data.std = {tuple(std)} must be three numbers each, one "
                "per colour, and standard deviations above 0."
            )
        if not 0 < crop_pct <= 1:
            raise UserError(f"data.crop_pct = {crop_pct} must be a share above 0 and up to 1.")
        if mixing.enabled and batch_size % 2:
            raise UserError(
                f"data.batch_size = {batch_size} is odd, but mixup and CutMix mix pairs: use an even batch size, or "
                "set data.mixing.mixup and data.mixing.cutmix to 0."
            )
        self.num_classes, self.image_size, self.batch_size = num_classes, image_size, batch_size
        self.num_workers, self.augmentation, self.mixing = num_workers, augmentation, mixing
        self.repeats, self.seed = repeats, seed
        self.mean, self.std, self.interpolation, self.crop_pct = tuple(mean), tuple(std), interpolation, crop_pct
        self.predict_folder = None if predict_folder is None else Path(predict_folder).expanduser()
        self.corrupt = CorruptImages(on_corrupt, max_corrupt)
        self.class_names: tuple[str, ...] | None = None
        self._mixer = Mixer(mixing, num_classes)

    @abstractmethod
    def load(self, stage: str) -> None:
        """Find the images that a stage needs; what is there already is not looked for again."""

    @abstractmethod
    def training_images(self) -> Images[int]:
        """Return training images with class indices; available after setup("fit")."""

    @abstractmethod
    def validation_images(self) -> Images[int]:
        """Return validation images with class indices; available after setup of any stage but predict."""

    @abstractmethod
    def named_validation_images(self) -> Images[str]:
        """Return validation images with their paths, or what stands for a path; to predict where no folder is given."""

    def prediction_images(self) -> Images[str]:
        """Return images to predict with their paths, relative to predict_folder; available after setup("predict").

        Raises:
            UserError: When predict_folder is no folder or holds no images.
        """
        return self.named_validation_images() if self.predict_folder is None else find_images(self.predict_folder)

    def setup(self, stage: str) -> None:
        """Find the images and check that batches can be made of them, before any long work.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            UserError: When the data are not as they must be; says what was expected.
        """
        self.load(stage)
        rank, world_size = self._rank_and_world_size()
        images = self.prediction_images() if stage == "predict" else self.validation_images()
        EvaluationBatchSampler(range(len(images)), self.batch_size, rank=rank, world_size=world_size)
        if stage != "fit":
            return
        share = len(self.training_images()) // world_size
        if share < self.batch_size:
            raise UserError(
                f"data.batch_size = {self.batch_size} is more than the {share} training images of a process: not one "
                "batch can be made; use a smaller batch size or fewer devices."
            )

    def teardown(self, stage: str) -> None:
        """Say at the end how many images could not be read."""
        if self.corrupt.count:
            LOGGER.warning(
                "%d image(s) could not be read so far in this process: the warnings above name each.",
                self.corrupt.count,
            )

    def metadata(self) -> ModelMetadata:
        """Return what a network trained on these data must know of them."""
        return ModelMetadata(
            image_size=(self.image_size, self.image_size),
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
            class_names=self.class_names,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Load augmented batches in a new order every epoch; the last partial batch is dropped.

        With the trainer's ``overfit_batches`` every epoch is the first one, order and augmentation included.
        """
        images = self.training_images()
        rank, world_size = self._rank_and_world_size()
        overfits = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        kind = RepeatingSampler if overfits else TrainingSampler
        sampler = kind(len(images), self.seed, rank, world_size, self.repeats)
        dataset = TrainingImages(images, training_transform(self.augmentation, self.metadata()), self.corrupt)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=True,
            **self._loader_options(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Load validation batches, each image once over all processes."""
        return self._evaluation_loader(self.validation_images())

    def test_dataloader(self) -> DataLoader[Any]:
        """Load the validation images: neither ImageNet nor the digits have other public labels."""
        return self._evaluation_loader(self.validation_images())

    def predict_dataloader(self) -> DataLoader[Any]:
        """Load images to predict, with their paths."""
        return self._evaluation_loader(self.prediction_images())

    def on_after_batch_transfer(self, batch: tuple[Tensor, Any], dataloader_idx: int) -> tuple[Tensor, Any]:
        """Mix a training batch on its device."""
        if self.trainer is None or not self.trainer.training:
            return batch
        images, targets = batch
        rank, _ = self._rank_and_world_size()
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1  # counted up after the transfer
        return self._mixer(images, targets, seed=(self.seed, rank, step))

    def _evaluation_loader(self, images: Images[int | str]) -> DataLoader[Any]:
        rank, world_size = self._rank_and_world_size()
        return DataLoader(
            EvaluationImages(images, evaluation_transform(self.metadata()), self.corrupt),
            batch_sampler=EvaluationBatchSampler(range(len(images)), self.batch_size, rank=rank, world_size=world_size),
            collate_fn=collate_readable,
            **self._loader_options(),
        )

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
