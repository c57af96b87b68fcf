"""Shows a run's options beside its results in TensorBoard, to compare runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.tensorboard.summary import hparams

from lightning_modules.checks import data_of
from lightning_modules.inspection import run_config
from lightning_modules.run_log import tensorboard_writers

NUMBERS = (
    "data.batch_size",
    "data.mixing.cutmix",
    "data.mixing.mixup",
    "ema.decay",
    "model.network.drop_path_rate",
    "model.optimizer.learning_rate",
    "model.optimizer.weight_decay",
    "model.schedule.warmup_epochs",
    "seed_everything",
    "trainer.accumulate_grad_batches",
    "trainer.max_epochs",
)
TEXTS = (
    "data.class_path",
    "data.image_size",
    "data.root",
    "model.distillation.kind",
    "model.freeze",
    "model.network.depths",
    "model.network.widths",
    "model.teacher.name",
    "model.teacher.stored",
    "model.weights",
    "trainer.precision",
)
"""Options that are shown, the same in each run, since TensorBoard takes its columns from one of the runs. The text
run/config has all options."""

RESULTS = ("top1", "macro_accuracy", "f1", "loss")


class Hyperparameters(Callback):
    """Show a fit's options and results in TensorBoard's tab HPARAMS, from its first step on.

    Hooks: ``on_train_start`` writes the options of ``config.yaml``; ``on_train_end`` marks the run as ended.
    TensorBoard takes the results from the curves' last points. Fits without a ``config.yaml``, which only the command
    line writes, have no entry.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the options and name the results."""
        self._write(trainer, pl_module, (0, 1))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the run as ended."""
        self._write(trainer, pl_module, (2,))

    def _write(self, trainer: Trainer, pl_module: LightningModule, parts: tuple[int, ...]) -> None:
        path = run_config(trainer)
        if path is None:
            return
        averages = getattr(pl_module, "ema_student", None) is not None
        kinds = ("ema", "raw") if averages else ("raw",)
        results = [f"val/{result}_{kind}" for result in RESULTS for kind in kinds]
        for writer in tensorboard_writers(trainer):
            # Not writer.add_hparams, which writes to a second file in a folder of its own.
            options = shown_options(yaml.safe_load(path.read_text(encoding="utf-8")))
            options["data.batch_size"] = data_of(trainer).batch_size  # may be computed from global_batch_size
            summaries = hparams(options, dict.fromkeys([*results, "train/loss"]))
            for part in parts:
                writer._get_file_writer().add_summary(summaries[part])


def shown_options(config: Mapping[str, Any]) -> dict[str, float | str]:
    """Return the options of a resolved config to show, by dotted names; missing texts are "none"."""
    found = dict(_flatten(config, ""))
    numbers = {name: found[name] for name in NUMBERS if isinstance(found.get(name), (int, float))}
    return numbers | {name: str(found.get(name, "none")) for name in TEXTS}


def _flatten(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, prefix if key == "init_args" else f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
