"""The position of a run in its data, and its batch size: both stay right after a resume on other devices."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule

from mobilemamba.errors import UserError


class ResumedData(LightningDataModule):
    """Data of a run that can resume with the next batch after any step.

    Attributes:
        batch_size: Images per batch and process.
        global_batch_size: Images per optimiser step, over all processes and accumulated batches; None: not given.
    """

    DEFAULT_BATCH_SIZE = 128
    batch_size: int
    global_batch_size: int | None = None
    _given_batch_size: int | None = None
    _resumed_at: tuple[int, int] | None = None

    def set_batch_size(self, batch_size: int | None, global_batch_size: int | None) -> None:
        """Set the options; None where they were not given."""
        self._given_batch_size, self.global_batch_size = batch_size, global_batch_size
        self.batch_size = self.DEFAULT_BATCH_SIZE if batch_size is None else batch_size

    def divide_batch(self) -> None:
        """Set batch_size to global_batch_size divided by the processes and accumulated batches, where it is given.

        Raises:
            UserError: When it cannot be divided, or the given batch_size contradicts it.
        """
        images, given = self.global_batch_size, self._given_batch_size
        if images is None or self.trainer is None:
            return
        processes, accumulated = self.trainer.world_size, self.trainer.accumulate_grad_batches
        if given is not None and given * processes * accumulated != images:
            steps, rest = divmod(images, given * processes) if given > 0 else (0, 1)
            remedy = f"set trainer.accumulate_grad_batches to {steps}, or " if not rest else ""
            raise UserError(
                f"data.batch_size = {given} contradicts data.global_batch_size = {images}: {processes} processes x "
                f"{accumulated} accumulated batches of it have {given * processes * accumulated} images. To keep the "
                f"recipe's step, {remedy}leave data.batch_size out; for steps of another size set "
                "data.global_batch_size to null."
            )
        if images < processes * accumulated or images % (processes * accumulated):
            raise UserError(
                f"data.global_batch_size = {images} must be a multiple of {processes} processes x {accumulated} "
                "accumulated batches: change trainer.devices, trainer.num_nodes or trainer.accumulate_grad_batches, or "
                "set it to null and give data.batch_size."
            )
        self.batch_size = images // (processes * accumulated)

    def take_position(self) -> tuple[int, int]:
        """Return the epoch in which a loader begins, and its number of finished batches.

        Lightning loads a checkpoint's loops after it has made the loader, so the first loader uses the position that
        this module has loaded.
        """
        position = self._resumed_at or self._position()
        self._resumed_at = None
        return position

    def state_dict(self) -> dict[str, Any]:
        """Return the position for a resumed run."""
        epoch, batches = self._position()
        return {"epoch": epoch, "images": batches * self._images_per_batch()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position of the run that wrote a checkpoint; older ones, written between epochs, have none."""
        if "epoch" in state_dict:
            self._resumed_at = state_dict["epoch"], state_dict["images"] // self._images_per_batch()

    def _position(self) -> tuple[int, int]:
        """Return the trainer's epoch and its number of finished batches."""
        if self.trainer is None:
            return 0, 0
        loop: Any = self.trainer.fit_loop
        epoch, batch = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        if epoch.started == epoch.processed:
            return epoch.processed, 0
        return (epoch.processed + 1, 0) if batch.is_last_batch else (epoch.processed, batch.current.processed)

    def _images_per_batch(self) -> int:
        """Return the number of images of one batch over all processes."""
        return self.batch_size * self.rank_and_world_size()[1]

    def rank_and_world_size(self) -> tuple[int, int]:
        """Return the index of this process and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
