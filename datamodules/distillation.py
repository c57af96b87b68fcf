"""Data with a stored teacher: training images in the teacher's views, each with its answer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from datamodules.datasets import TrainingImages, collate_training
from datamodules.loaders import LoaderDataModule
from datamodules.seeded_views import StoredViews
from datamodules.stored_teacher import StoredTeacher


class DistillationDataModule(LoaderDataModule):
    """Loads labelled images and, with a stored teacher, its answers."""

    _store: StoredTeacher | None = None
    _views: int | None = None

    @abstractmethod
    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return the fingerprints of data and augmentation; see :mod:`datamodules.fingerprints`."""

    def use_stored_teacher(self, store: StoredTeacher, mixes: bool) -> None:
        """Train on the views of a store, in turn; training batches then also hold the teacher's answers.

        Args:
            store: A store of these data.
            mixes: Whether batches are mixed, and the teacher's answers with them.
        """
        self._store, self._views = store, store.views

    def labelled_loader(
        self, images: TrainingImages, repeats: int, balance: float, targets: np.ndarray | None, **options: Any
    ) -> DataLoader[Any]:
        """Load augmented batches of images; arguments as for :meth:`LoaderDataModule.training_loader`."""
        dataset = images if self._store is None else StoredViews(images, self._store)
        options |= {"views": self._views, "collate_fn": collate_training}
        return self.training_loader(dataset, len(images), repeats, balance, targets, **options)

    def state_dict(self) -> dict[str, Any]:
        """Return the position for a resumed run, and its number of views."""
        return super().state_dict() | ({} if self._views is None else {"views": self._views})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position and the number of views, even if the store has more views by now."""
        super().load_state_dict(state_dict)
        if self._store is not None and "views" in state_dict:
            self._views = min(state_dict["views"], self._store.views)
