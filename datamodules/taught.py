"""Data with a stored teacher: training images in the views that it was asked about, each with what it said."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from datamodules.datasets import TrainingImages, collate_training
from datamodules.loaders import LoaderDataModule
from datamodules.seeded_views import StoredViews
from datamodules.stored_teacher import StoredTeacher


class TaughtDataModule(LoaderDataModule):
    """Loaders of labelled images and, with a stored teacher, of what it said of them."""

    _store: StoredTeacher | None = None
    _views: int | None = None

    @abstractmethod
    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Return what the views of training images depend on, by parts; see :mod:`datamodules.fingerprints`."""

    def use_stored_teacher(self, store: StoredTeacher, mixes: bool) -> None:
        """Train on the views that a store has, in turn; training batches then hold what the teacher said, too.

        Args:
            store: Of these data.
            mixes: Whether batches are mixed, and what the teacher said in the same proportion.
        """
        self._store, self._views = store, store.views

    def labelled_loader(
        self, images: TrainingImages, repeats: int, balance: float, targets: np.ndarray | None, **options: Any
    ) -> DataLoader[Any]:
        """Load augmented batches of images; for the arguments see :meth:`LoaderDataModule.training_loader`."""
        dataset = images if self._store is None else StoredViews(images, self._store)
        options |= {"views": self._views, "collate_fn": collate_training}
        return self.training_loader(dataset, len(images), repeats, balance, targets, **options)

    def state_dict(self) -> dict[str, Any]:
        """Return where the draws of a resumed run begin, and how many views they have."""
        return super().state_dict() | ({} if self._views is None else {"views": self._views})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the draws of a run, also where the store has more views by now."""
        super().load_state_dict(state_dict)
        if self._store is not None and "views" in state_dict:
            self._views = min(state_dict["views"], self._store.views)
