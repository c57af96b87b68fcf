"""Deployment files at the end of fit: fused, exported, reloaded and compared."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_modules.callbacks.checkpoints import BestCheckpoint
from lightning_modules.callbacks.ema import EMA
from lightning_modules.inspection import find_callback, is_trial, metadata_of, run_folder, task_of
from mobilemamba.checkpoints import load_strictly
from mobilemamba.errors import UserError
from mobilemamba.export import ExportOptions, ParityReport, check_installed, export_network, report_path
from mobilemamba.files import check_writable
from mobilemamba.weights import find_weights

DEFAULT_OPTIONS = ExportOptions()


@dataclass(frozen=True)
class ExportResult:
    """The result of one export: a file with its parity report, or the error.

    Args:
        name: "best" or "last".
        path: The file.
        report: Comparison with the network; None if the export failed.
        error: Why the export failed; None if it succeeded.
    """

    name: str
    path: Path
    report: ParityReport | None = None
    error: str | None = None

    def summary_lines(self) -> list[tuple[str, str]]:
        """Return titles and texts for people."""
        report = self.report
        if report is None:
            return [(f"{self.name} export", f"FAILED: {self.error}")]
        if report.verdict == "converted, not run":
            outcome = "CONVERTED, NOT RUN: not compared with its network"
        else:
            difference, agreement = f"{report.max_abs_error:.1e}", f"{report.top1_agreement:.0%}"
            outcome = f"differs by {difference} of the largest logit, same top class for {agreement}"
        return [
            (f"{self.name} export", f"{self.path} ({outcome})"),
            (f"{self.name} parity", str(report_path(self.path))),
        ]


class ExportAtEnd(Callback):
    """Export the best and the last weights of a fit, BatchNorm folded, and check each file against its network.

    Hooks: ``setup`` checks before training that everything can be exported; ``on_fit_end`` exports, on the first
    process. A failed export does not stop the run: it is kept in ``results`` with a warning, and the command ends with
    an error. ``mobilemamba export`` exports any checkpoint.

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
        """Check before training that everything can be exported.

        Raises:
            UserError: When the folder cannot be written, the format needs a package that is not installed, or averaged
                weights are wanted without EMA.
        """
        folder = self.resolved_folder(trainer)
        if stage != "fit" or is_trial(trainer):
            return
        if self.weights == "ema" and find_callback(trainer, EMA) is None:
            raise UserError("export.weights = 'ema' must be null or 'raw' without EMA, or set enable.ema to true.")
        if trainer.is_global_zero:
            check_installed(self.options.format)
            check_writable(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the chosen weights."""
        folder = self.resolved_folder(trainer)
        if is_trial(trainer) or not trainer.is_global_zero:
            return
        self.results = []
        for name in self.which:
            network = self._network(trainer, pl_module, name)
            if network is None:
                continue
            path = folder / f"{name}{self.options.suffix}"
            rank_zero_info(f"Exporting {path.name} and comparing it with its network ...")
            begun = time.perf_counter()
            try:
                report = export_network(network, path, self.options, metadata_of(pl_module))
                self.results.append(ExportResult(name, path, report=report))
            except (UserError, OSError) as error:
                self.results.append(ExportResult(name, path, error=str(error)))
                rank_zero_warn(f"The {name} weights were not exported: {error}")
            else:
                rank_zero_info(f"Exported {path.name} in {time.perf_counter() - begun:.0f} seconds.")

    def resolved_folder(self, trainer: Trainer) -> Path:
        """Return the folder of the files; to be called on all processes."""
        run = run_folder(trainer)
        return Path(self.folder) if self.folder else run / "export"

    def summary_lines(self) -> list[tuple[str, str]]:
        """Return this callback's lines of :class:`RunSummary`."""
        return [line for result in self.results for line in result.summary_lines()]

    def _network(self, trainer: Trainer, pl_module: LightningModule, name: Literal["best", "last"]) -> nn.Module | None:
        """Return the network to export, on the CPU; None where the run has no best checkpoint."""
        task = task_of(pl_module)
        if name == "best":
            best = find_callback(trainer, BestCheckpoint)
            path = best.best_model_path if best else ""
            if not path:
                return None
            network: nn.Module = copy.deepcopy(task.student)
            load_strictly(network, find_weights(path, self.weights or "ema").state)
            return network.cpu().eval()
        network = task.student if task.ema_student is None or self.weights == "raw" else task.ema_student
        return copy.deepcopy(network).cpu().eval()
