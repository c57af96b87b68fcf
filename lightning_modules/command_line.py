"""The parser and the parts behind the ``lightning`` command.

Lightning's own command-line class does the work; here the parts are chosen and their defaults are the recipe's. All
defaults run on any machine: what needs a GPU (``trainer.precision: 16-mixed``) is written in the configs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, make_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules import ClassificationDataModule
from lightning_modules import callbacks
from lightning_modules.checkpoint_files import keep_checkpoints_whole
from lightning_modules.classification import ImageClassification
from mobilemamba.checkpoints import read_file
from mobilemamba.errors import UserError

RECIPE_TRAINER = {
    "max_epochs": 300,
    "gradient_clip_val": 5.0,
    # Of the network's size the module tells in one line.
    "enable_model_summary": False,
    # The datamodules bring samplers that know of all processes, and do not pad the validation set.
    "use_distributed_sampler": False,
}

CALLBACKS: dict[str, type[Callback]] = {
    "ema": callbacks.EMA,
    "best_checkpoint": callbacks.BestCheckpoint,
    "last_checkpoint": callbacks.LastCheckpoint,
    "interrupt": callbacks.SaveOnInterrupt,
    "non_finite": callbacks.NonFiniteGuard,
    "throughput": callbacks.Throughput,
    "scalar_layout": callbacks.ScalarLayout,
    "config_text": callbacks.ConfigText,
    "complexity": callbacks.ComplexityTable,
    "sample_images": callbacks.SampleImages,
    "class_results": callbacks.ClassResults,
    "scan_decay": callbacks.ScanDecays,
    "receptive_field": callbacks.ReceptiveField,
    "export": callbacks.ExportAtEnd,
    "predictions": callbacks.PredictionsFile,
    "record": callbacks.RunRecording,
    "summary": callbacks.RunSummary,
}
"""Config section of each callback, in the order in which they run; ``enable.SECTION`` switches it off."""


def _enabled() -> type:
    """Return the dataclass of the section ``enable``: one flag for each callback, described by its first line."""
    fields = [(section, bool, True) for section in CALLBACKS]
    made = make_dataclass("Enabled", fields, frozen=True)
    made.__module__ = __name__
    lines = (f"    {name}: {(kind.__doc__ or '').partition(chr(10))[0]}" for name, kind in CALLBACKS.items())
    head = "Which callbacks run; the options of each are in the section of its name.\n\nArgs:\n"
    made.__doc__ = head + "\n".join(lines)
    return made


Enabled = _enabled()


class MonitorCheck(Callback):
    """Say which metrics there are where early stopping waits for one that is never logged.

    Hook: ``on_exception``, whose own error takes the place of Lightning's.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Name the metric and those that were logged."""
        logged = sorted(trainer.callback_metrics)
        for callback in trainer.early_stopping_callbacks:
            is_about_it = isinstance(exception, RuntimeError) and f"`{callback.monitor}`" in str(exception)
            if is_about_it and logged and callback.monitor not in logged:
                nearest = get_close_matches(callback.monitor, logged, n=1, cutoff=0.0)[0]
                raise UserError(
                    f"EarlyStopping.monitor = {callback.monitor!r} must be a metric that is logged, such as "
                    f"{nearest!r}: there are {', '.join(logged)}."
                ) from exception


@dataclass(frozen=True)
class Run:
    """Where a fit writes: folder/name/version_0, version_1, ... or folder/name/VERSION.

    Args:
        name: Name of the experiment.
        folder: Folder of all experiments.
        version: Name of this run's folder. Null: the next number.
    """

    name: str = "mobilemamba"
    folder: str = "runs"
    version: str | None = None


class Parser(LightningArgumentParser):
    """Lightning's parser, with shorter errors about the data."""

    def add_subclass_arguments(self, baseclass: Any, nested_key: str, **options: Any) -> None:
        """Add a part whose class must be chosen; Lightning's default, None, would be an alternative in every error."""
        super().add_subclass_arguments(baseclass, nested_key, default=argparse.SUPPRESS, **options)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """End the process, and say what may be chosen where no data are."""
        if message.endswith(".data") or f".{ClassificationDataModule.__name__}'" in message:
            message = (
                "no data are named: give a config that names them, such as --config experiments/quickstart.yaml, or "
                "--data ImageNetDataModule --data.root FOLDER"
            )
        return super().error(message, ex)


class SaveFitConfig(SaveConfigCallback):
    """Save the resolved config of a fit; evaluations leave the run's folder alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml into the run's folder, which may be that of the run that is resumed.

        Raises:
            UserError: When the folder holds checkpoints of another run.
        """
        if stage != "fit":
            return
        folder = Path(str(trainer.log_dir))  # agreed upon by all processes
        checkpoints = folder / "checkpoints"
        resumed_from = self.config["ckpt_path"]  # the trainer knows it only after its setup
        resumed = resumed_from is not None and folder.resolve() in Path(resumed_from).resolve().parents
        if not resumed and checkpoints.is_dir() and any(checkpoints.iterdir()):
            raise UserError(
                f"The folder {folder} holds the checkpoints of a run: go on with it by --ckpt_path "
                f"{checkpoints / 'last.ckpt'}, or choose another run.version or run.name."
            )
        self.overwrite = True
        super().setup(trainer, pl_module, stage)


class CommandLine(LightningCLI):
    """Parse arguments, build the parts and run one of fit, validate, test and predict.

    Args:
        args: Arguments as on the command line; None takes those of the process.
    """

    def __init__(self, args: list[str] | None = None) -> None:
        super().__init__(
            model_class=ImageClassification,
            datamodule_class=ClassificationDataModule,
            subclass_mode_data=True,
            parser_class=Parser,
            save_config_callback=SaveFitConfig,
            trainer_defaults=dict(RECIPE_TRAINER),
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # Checkpoints say themselves how to rebuild their network.
            load_from_checkpoint_support=False,
            # Otherwise every error of a typing is preceded by two screens of options.
            parser_kwargs={
                name: {"usage": f"lightning {name} [--config FILE] [--SECTION.OPTION VALUE ...]"}
                for name in self.subcommands()
            },
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of run and callbacks, and link what must agree."""
        parser.add_class_arguments(Run, "run")
        parser.add_class_arguments(Enabled, "enable")
        for section, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, section)
        parser.link_arguments("data.num_classes", "model.network.num_classes", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse without abbreviations: a mistyped option is an error, not another option."""
        for name in self.subcommands():
            # Adding a subcommand sets this from the parser above it, whatever parser_kwargs say.
            self._parser(name).allow_abbrev = False
        super().parse_arguments(parser, args)

    def before_instantiate_classes(self) -> None:
        """Refuse a checkpoint before data are read or a network is built, and code in checkpoints at any time.

        Raises:
            FileNotFoundError: When there is no such file.
            UserError: When the file is damaged or holds code.
            UserError: When there is nothing to evaluate, or code would be allowed.
        """
        options = self.config[self.subcommand]
        if options["weights_only"] is False:
            raise UserError(
                "weights_only = false must be true: this project's checkpoints hold tensors and plain values alone; "
                "leave it out."
            )
        # Lightning's own default, null, leaves it to an environment variable of torch.
        options["weights_only"] = True
        path = options["ckpt_path"]
        if path is not None:
            read_file(Path(path))
        elif self.subcommand != "fit":
            raise UserError(f"lightning {self.subcommand} needs weights: give --ckpt_path runs/.../best.ckpt.")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the enabled callbacks and, in fit, a TensorBoard log."""
        enabled = self._get(self.config_init, "enable")
        parser = self._parser(self.subcommand)
        # All but the table of predictions act in fit alone, and would only try to restore their state elsewhere.
        in_fit, in_predict = CALLBACKS.keys() - {"predictions"}, {"predictions"}
        wanted = {"fit": in_fit, "predict": in_predict}.get(str(self.subcommand), set())
        parser.callback_keys = [key for key in parser.callback_keys if key in wanted and getattr(enabled, key)]
        if self.subcommand != "fit":
            # An evaluation prints its figures; it is no run of its own.
            kwargs["logger"] = False
        elif self._get(self.config_init, "trainer").get("logger") in (None, True):
            run = self._get(self.config_init, "run")
            kwargs["logger"] = TensorBoardLogger(run.folder, run.name, run.version, default_hp_metric=False)
        given = self._get(self.config_init, "trainer").get("callbacks") or []  # what is passed on replaces these
        kwargs["callbacks"] = [*(given if isinstance(given, list) else [given]), MonitorCheck()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (
            ValueError,
            TypeError,
            RuntimeError,
            ImportError,
        ) as error:  # the user chose all that is built
            if isinstance(error, UserError):
                raise
            raise UserError(f"The trainer's options do not fit: {error}") from error
        keep_checkpoints_whole(trainer)
        return trainer

    def _parse_ckpt_path(self) -> None:
        """Take no options from checkpoints: the config alone says what runs."""

    def failed_exports(self) -> bool:
        """Return whether a fit has left out a file that it should have exported."""
        exports = (c for c in self.trainer.callbacks if isinstance(c, callbacks.ExportAtEnd))  # type: ignore[attr-defined]
        return any(result.error is not None for export in exports for result in export.results)
