"""Views of training images that can be drawn again: each is a function of a seed, its number and the image.

So what a teacher says of them can be stored, and be read when a student sees them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.datasets import TrainingImages
from datamodules.sampling import Draw, View
from datamodules.seeding import seeded
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

    def __getitem__(self, index: int) -> tuple[Tensor, int] | None:
        """Return the augmented image (3, H, W) and its index."""
        sample = self.images.read(index)
        if sample is None:
            return None
        with seeded(view_seed(self.seed, View(index, self.number))):
            return self.images.transform(sample[0]), index


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

    def __getitem__(self, view: View) -> tuple[Tensor, int | str, tuple[np.ndarray, np.ndarray]]:
        """Return the augmented image (3, H, W), its class index, and class indices (K,) with probabilities (K,)."""
        draw = Draw(view.image, view_seed(self.store.seed, view))
        index, image, label = self.images.readable(draw, self.store.not_stored)
        seed = draw.seed if index == view.image else view_seed(self.store.seed, View(index, view.number))
        with seeded(seed):
            return self.images.transform(image), label, self.store.row(view.number, index)
