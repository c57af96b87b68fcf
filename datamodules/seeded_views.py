"""Views of training images that can be drawn again: each is a function of a seed, its number and the image.

So what a teacher says of them can be stored, and be read when a student sees them.
"""

from __future__ import annotations

import hashlib
from typing import Any

from torch.utils.data import Dataset

from datamodules.datasets import TrainingBatch, TrainingImages, TrainingSample, collate_training
from datamodules.sampling import Draw, View
from datamodules.stored_teacher import StoredTeacher


def view_seed(seed: int, view: View) -> int:
    """Return the seed of the augmentation of a view, from 0 to 2^63 - 1."""
    # A tenth of the time of NumPy's SeedSequence, which would be felt where images are small.
    digest = hashlib.blake2b(f"{seed} {view.number} {view.image}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class ViewToStore(Dataset[Any]):
    """One view of every image, for a teacher; None for an image that cannot be read.

    Args:
        images: Training images and their augmentation.
        seed: Seed of the views.
        number: Which view.
    """

    def __init__(self, images: TrainingImages, seed: int, number: int) -> None:
        self.images, self.seed, self.number = images, seed, number

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> TrainingSample | None:
        """Return the augmented image with its index in the place of a class."""
        sample = self.images.read(index)
        return None if sample is None else self.images.augmented(sample[0], index, self._seed(index))

    def _seed(self, index: int) -> int:
        return view_seed(self.seed, View(index, self.number))


def collate_views(samples: list[TrainingSample | None]) -> TrainingBatch | None:
    """Stack the samples that could be read; None where there are none."""
    readable = [sample for sample in samples if sample is not None]
    return collate_training(readable) if readable else None


class StoredViews(Dataset[Any]):
    """The same views for a student, each with what the teacher said of it.

    Where an image cannot be read, or could not when the teacher was run, another one of its class takes its place, in
    the view of the same number, with what is stored of that one.

    Args:
        images: Training images and their augmentation.
        store: What the teacher said.
    """

    def __init__(self, images: TrainingImages, store: StoredTeacher) -> None:
        self.images, self.store = images, store

    def __getitem__(self, view: View) -> TrainingSample:
        """Return the augmented image, with what the teacher said of it."""
        draw = Draw(view.image, view_seed(self.store.seed, view))
        index, pixels, label = self.images.readable(draw, self.store.not_stored)
        seed = draw.seed if index == view.image else view_seed(self.store.seed, View(index, view.number))
        return self.images.augmented(pixels, label, seed)._replace(said=self.store.row(view.number, index))
