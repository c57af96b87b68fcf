"""Reproducible views of training images: each depends only on a seed, its number and the image.

So a teacher's answers to them can be stored, and read when a student sees the same views.
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
    # Ten times faster than NumPy's SeedSequence, which matters for small images.
    digest = hashlib.blake2b(f"{seed} {view.number} {view.image}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class ViewToStore(Dataset[Any]):
    """One view of every image, for a teacher; None for an image that cannot be read.

    Args:
        images: Training images and their augmentation.
        seed: Seed of the views.
        number: Number of the view.
    """

    def __init__(self, images: TrainingImages, seed: int, number: int) -> None:
        self.images, self.seed, self.number = images, seed, number

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> TrainingSample | None:
        """Return the augmented image with its index instead of a class."""
        sample, seed = self.images.read(index), view_seed(self.seed, View(index, self.number))
        return None if sample is None else self.images.augmented(sample[0], index, seed)


def collate_views(samples: list[TrainingSample | None]) -> TrainingBatch | None:
    """Stack the samples that could be read; None where there are none."""
    readable = [sample for sample in samples if sample is not None]
    return collate_training(readable) if readable else None


class StoredViews(Dataset[Any]):
    """The same views for a student, each with the teacher's answer.

    If an image cannot be read, or could not when the teacher was run, the view of the same number of another image of
    its class replaces it.

    Args:
        images: Training images and their augmentation.
        store: The teacher's answers.
    """

    def __init__(self, images: TrainingImages, store: StoredTeacher) -> None:
        self.images, self.store = images, store

    def __getitem__(self, view: View) -> TrainingSample:
        """Return the augmented image with the teacher's answer."""
        draw = Draw(view.image, view_seed(self.store.seed, view))
        index, pixels, label = self.images.readable(draw, self.store.not_stored)
        seed = draw.seed if index == view.image else view_seed(self.store.seed, View(index, view.number))
        return self.images.augmented(pixels, label, seed)._replace(teacher_answer=self.store.row(view.number, index))
