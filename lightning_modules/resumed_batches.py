"""Adjusts a checkpoint when a run resumes with another number of images per step.

Lightning counts steps and batches. These counts are converted so that the number of images seen stays the same.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import rank_zero_info


def follow_images(
    checkpoint: dict[str, Any],
    images_per_step: int,
    images_per_batch: int,
    scales_rate: bool,
    is_measured_in_steps: bool = False,
) -> None:
    """Move schedule, learning rate and position in the epoch of a checkpoint to another number of images, in place.

    Args:
        checkpoint: Content of a training checkpoint; older ones without these numbers are not changed.
        images_per_step: New number of images of an optimiser step, over all processes.
        images_per_batch: New number of images of a batch, over all processes.
        scales_rate: Whether the learning rate is proportional to the images of a step.
        is_measured_in_steps: Whether the run ends after a number of steps; then finished steps are converted too.
    """
    before = checkpoint["mobilemamba"].get("images")
    if before is None or before == {"step": images_per_step, "batch": images_per_batch}:
        return
    ratio = images_per_step / before["step"]
    factor = ratio if scales_rate else 1.0
    for schedule in checkpoint["lr_schedulers"]:
        schedule["last_epoch"] = round(schedule["last_epoch"] / ratio)
        schedule["_step_count"] = schedule["last_epoch"] + 1
        for name in ("base_lrs", "_last_lr"):
            schedule[name] = [rate * factor for rate in schedule[name]]
    for optimizer in checkpoint["optimizer_states"]:
        for group in optimizer["param_groups"]:
            group.update({name: group[name] * factor for name in ("lr", "initial_lr") if name in group})
    loop = checkpoint["loops"]["fit_loop"]
    if is_measured_in_steps:
        steps = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
        steps.update({name: round(count / ratio) for name, count in steps.items()})
    if loop["epoch_progress"]["current"]["started"] > loop["epoch_progress"]["current"]["processed"]:
        current = loop["epoch_loop.batch_progress"]["current"]
        moved = current["processed"] * before["batch"] // images_per_batch - current["processed"]
        current.update({name: count + moved for name, count in current.items()})
    rate = "is scaled in proportion" if scales_rate else "stays"
    rank_zero_info(
        f"This run resumes with {images_per_step} images per step instead of {before['step']}: its schedule continues "
        f"after the same number of images, and its learning rate {rate}."
    )
