"""Writes a run's config, the cost of the network's parts, and the grouping of curves into the log."""

from __future__ import annotations

import re

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_modules.callbacks.scan_decay import DECAY_LENGTH_TAG
from lightning_modules.inspection import metadata_of, run_config, task_of
from lightning_modules.run_log import log_text, takes_pictures, tensorboard_writers
from mobilemamba.complexity import Complexity, complexity_of_modules
from mobilemamba.tables import table

PARTS = re.compile(
    r"stem|head|stages\.\d+\.downsample|stages\.\d+\.blocks\.\d+"
    r"|stages\.\d+\.blocks\.\d+\.mixer\.branch\.(global_mixer\.mamba|global_mixer\.wavelet|local_mixer)"
)
"""Names of the modules in the table; those of the last line are parts of blocks."""

BRANCHES = {"mamba": "scan branch", "wavelet": "wavelet branch", "local_mixer": "local branch"}


class ConfigText(Callback):
    """Write the run's ``config.yaml``, every option resolved, as text into the log (``run/config``).

    Hooks: ``on_train_start``. Only the command line writes this file; other fits get no text.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the text."""
        path = run_config(trainer)
        if path is not None:
            log_text(trainer, "run/config", f"```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```")


class ComplexityTable(Callback):
    """Write parameters and MACs of each part of the network as a table into the log (``network/complexity``).

    Hooks: ``on_train_start``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table."""
        if takes_pictures(trainer) and trainer.is_global_zero:
            height, width = metadata_of(pl_module).image_size
            text = network_table(task_of(pl_module).student, (height, width))
            heading = f"For one image of {height} x {width} pixels, classifier included."
            log_text(trainer, "network/complexity", f"{heading}\n\n{text}")


class ScalarLayout(Callback):
    """Group the run's curves in TensorBoard's tab Custom Scalars.

    Hooks: ``on_train_start``.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout."""
        distils = getattr(pl_module, "teacher_config", None) is not None
        has_top5 = task_of(pl_module).student.num_classes > 5
        for writer in tensorboard_writers(trainer):
            writer.add_custom_scalars(scalar_layout(distils, has_top5))


def network_table(network: nn.Module, image_size: tuple[int, int]) -> str:
    """Return a Markdown table of a network's parts, for one image.

    Args:
        network: A MobileMamba in its training form; it is not changed.
        image_size: Height and width in pixels.
    """
    modules = complexity_of_modules(network, image_size)
    whole = modules[""]

    def row(label: str, part: Complexity) -> tuple[str, ...]:
        shares = f"{part.parameters / whole.parameters:.1%}", f"{part.total_macs / whole.total_macs:.1%}"
        scan = f"{part.scan_macs:,}" if part.scan_macs else ""
        return label, f"{part.parameters:,}", shares[0], f"{part.total_macs:,}", shares[1], scan

    # The sum comes first, since TensorBoard shows only the beginning.
    rows = [row("**whole network**", whole)]
    for name, part in modules.items():
        if PARTS.fullmatch(name) and (part.parameters or part.total_macs):
            branch = BRANCHES.get(name.rpartition(".")[2])
            rows.append(row(name if branch is None else f"... its {branch}", part))
    return table(("part", "parameters", "share", "MACs", "share", "of them scan"), rows)


def scalar_layout(distils: bool, has_top5: bool) -> dict[str, dict[str, list[str | list[str]]]]:
    """Return the charts of a run by title, by category, as ``SummaryWriter.add_custom_scalars`` takes them.

    Args:
        distils: Whether the run has a teacher.
        has_top5: Whether it has so many classes that top-5 accuracy is logged.
    """
    losses = ["train/loss", "train/loss_task"]
    teacher = {}
    if distils:
        losses.append("train/loss_distillation")
        teacher = {
            "agreement of student and teacher": _chart("train/teacher_agreement", "val/teacher_agreement"),
            "top-1 of student and teacher": _chart("val/top1_teacher", "val/top1_ema", "val/top1_raw"),
        }
    return {
        "Accuracy": {
            "top-1, raw and EMA weights": _chart("val/top1_raw", "val/top1_ema"),
            "top-1, training and validation": _chart("train/top1", "val/top1_raw"),
            **({"top-5, raw and EMA weights": _chart("val/top5_raw", "val/top5_ema")} if has_top5 else {}),
            **teacher,
        },
        "Loss": {
            "training: total and parts": _chart(*losses),
            "validation, raw and EMA weights": _chart("val/loss_raw", "val/loss_ema"),
        },
        "Optimisation": {
            "learning rate": _chart("train/lr"),
            "gradient norm before clipping": _chart("train/grad_norm"),
            "norm of weights per part": ["Multiline", ["weight_norm/.*"]],
            "norm of gradients per part": ["Multiline", ["weight_gradient_norm/.*"]],
        },
        "Speed": {
            "images per second": _chart("train/images_per_second"),
            "share of the time waiting for data": _chart("train/data_wait"),
        },
        "Scan": {"median decay length per block, pixels": ["Multiline", [f"{DECAY_LENGTH_TAG}/.*"]]},
    }


def _chart(*tags: str) -> list[str | list[str]]:
    # TensorBoard matches the beginning of a tag: train/loss would also match train/loss_task.
    return ["Multiline", [f"{re.escape(tag)}$" for tag in tags]]
