"""Deployment files at the end of fit: fused, exported, reloaded and compared."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_modules.callbacks.checkpoints import BestCheckpoint
from lightning_modules.classification import ImageClassification
from mobilemamba.checkpoints import load_training_checkpoint
from mobilemamba.errors import UserError
from mobilemamba.export import (
    ExportOptions,
    ParityReport,
    check_installed,
    export_network,
)
from mobilemamba.files import check_writable

DEFAULT_OPTIONS = ExportOptions()


@dataclass(frozen=True)
class ExportResult:
    """What became of one export: a file with its parity report, or the reason why there is none.

    Args:
        name: "best" or "last".
        path: The file.
        report: Comparison with the network, None when the export failed.
        error: Why the export failed, None when it did not.
    """

    name: str
    path: Path
    report: ParityReport | None = None
    error: str | None = None


class ExportAtEnd(Callback):
    """Export the best and the last weights of a fit, BatchNorm folded, and check each file against its network.

    Hooks: ``setup`` checks that the folder can be written and the format be made, before any training; ``on_fit_end``
    exports, on the first process. Training and checkpoints outlive a failed export: it is kept in ``results`` and
    warned of, and the command line ends with an error. ``mobilemamba export`` does the same for any checkpoint.

    Args:
        folder: Folder of the files. Null: "export" in the run's folder.
        weights: Averaged or raw weights. Null: averaged ones where the run has them.
        which: Which weights to export.
        options: Format and tolerance.
    """

    def __init__(
        self,
        folder: str | None = None,
        weights: Literal["ema", "raw"] | None = None,
        which: tuple[Literal["best", "last"], ...] = ("best", "last"),
        options: ExportOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.folder = folder
        self.weights = weights
        self.which = tuple(which)
        self.options = options
        self.results: list[ExportResult] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fail before training rather than after it.

        Raises:
            UserError: When the folder cannot be written or the format needs a package that is not installed.
        """
        folder = self.resolved_folder(trainer)
        if stage == "fit" and self.should_act(trainer) and trainer.is_global_zero:
            check_installed(self.options.format)
            check_writable(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export what was asked for."""
        folder = self.resolved_folder(trainer)
        if not self.should_act(trainer) or not trainer.is_global_zero:
            return
        if not isinstance(pl_module, ImageClassification) or pl_module.metadata is None:
            raise TypeError(f"ExportAtEnd exports an ImageClassification, not a {type(pl_module).__name__}.")
        self.results = []
        for name in self.which:
            network = self._network(trainer, pl_module, name)
            if network is None:
                continue
            path = folder / f"{name}{self.options.suffix}"
            try:
                report = export_network(network, path, self.options, pl_module.metadata)
                self.results.append(ExportResult(name, path, report=report))
            except (UserError, OSError) as error:
                self.results.append(ExportResult(name, path, error=str(error)))
                rank_zero_warn(f"The {name} weights were not exported: {error}")

    def should_act(self, trainer: Trainer) -> bool:
        """Return whether this run makes anything worth exporting."""
        return not trainer.fast_dev_run  # type: ignore[attr-defined]

    def resolved_folder(self, trainer: Trainer) -> Path:
        """Return the folder of the files; to be called on all processes, since the run's folder is agreed upon."""
        run = Path(trainer.log_dir or trainer.default_root_dir)
        return Path(self.folder) if self.folder else run / "export"

    def _network(
        self, trainer: Trainer, pl_module: ImageClassification, name: Literal["best", "last"]
    ) -> nn.Module | None:
        """Return the network to export on the CPU; None where the run kept no best checkpoint."""
        if name == "best":
            best = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
            if best is None or not best.best_model_path:
                return None
            return load_training_checkpoint(best.best_model_path, self.weights or "ema")[0]
        averaged = pl_module.ema_student
        if self.weights == "ema" and averaged is None:
            raise UserError("export.weights = 'ema' is not possible without EMA: set enable.ema to true.")
        network = pl_module.student if averaged is None or self.weights == "raw" else averaged
        return copy.deepcopy(network).cpu().eval()
