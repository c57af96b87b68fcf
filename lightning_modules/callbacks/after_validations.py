"""The schedule of callbacks that write results: often at first, then every few validations, and at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.run_log import takes_pictures
from mobilemamba.errors import require


class AfterValidations(Callback, ABC):
    """Calls :meth:`write` after every few validations, and at the end of training for the last one.

    Before the first every_n_validations it is called after validations 1, 2, 4, 8 and so on, so that short runs show
    their beginning.

    Hooks: ``on_validation_epoch_start`` counts, ``on_validation_epoch_end`` and ``on_train_end`` write. The count is
    saved in checkpoints, so that a resumed run keeps the schedule. Lightning's sanity check does not count. Runs
    without a logger for pictures write nothing.

    Args:
        section: Name of the callback's section, for the error.
        every_n_validations: Number of validations between two calls.

    Raises:
        UserError: When every_n_validations is less than 1.
    """

    def __init__(self, section: str, every_n_validations: int) -> None:
        allowed = f"1 or more, or leave the callback out with enable.{section} = false"
        require(every_n_validations > 0, f"{section}.every_n_validations", every_n_validations, allowed)
        self.every_n_validations = every_n_validations
        self.validations = 0
        self._pending = False

    def state_dict(self) -> dict[str, Any]:
        """Keep the count over a resume."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count."""
        self.validations = state_dict["validations"]

    def counts(self, trainer: Trainer) -> bool:
        """Return whether this validation counts: the run is logged, and it is no sanity check."""
        return not trainer.sanity_checking and takes_pictures(trainer)

    def is_time(self) -> bool:
        """Return whether to write after the last counted validation."""
        is_early_power_of_two = self.validations < self.every_n_validations and self.validations.bit_count() == 1
        return is_early_power_of_two or self.validations % self.every_n_validations == 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the validation."""
        if self.counts(trainer):
            self.validations += 1
            self._pending = True

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write when it is time."""
        if self._pending and self.counts(trainer) and self.is_time():
            self._pending = False
            self.write(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write for the last validation, unless it is written already."""
        if self._pending:
            self._pending = False
            self.write(trainer, pl_module)

    @abstractmethod
    def write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write to the run's log; called on all processes."""
