"""The config a run was made with, to be read beside its curves."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.tensorboard import tensorboard_writer


class ConfigText(Callback):
    """Write the run's ``config.yaml``, every option resolved, as text into TensorBoard (``run/config``).

    Hooks: ``on_train_start``. Fits that were not started by the command line have no such file, and get no text.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the text."""
        folder = trainer.log_dir  # agreed upon by all processes
        writer = tensorboard_writer(trainer)
        path = None if folder is None else Path(folder) / "config.yaml"
        if writer is not None and path is not None and path.is_file():
            writer.add_text("run/config", config_markdown(path.read_text(encoding="utf-8")), trainer.global_step)


def config_markdown(config: str) -> str:
    """Return YAML as a Markdown code block."""
    return f"```yaml\n{config.rstrip()}\n```"
