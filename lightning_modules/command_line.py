"""The ``lightning`` command on top of Lightning's own command-line class.

Defaults are the recipe's and run on any machine; options that need a GPU (``trainer.precision: 16-mixed``) are in the
configs.
"""

from __future__ import annotations

import os
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules import callbacks
from lightning_modules.checkpoint_files import keep_checkpoints_whole, newest_whole_checkpoint
from lightning_modules.parser import Parser
from lightning_modules.run_folder import Run, held_alone, removed_where_refused, run_of_checkpoint
from lightning_modules.run_record import LAST_CHECKPOINT
from lightning_modules.starting_weights import follow_weights
from lightning_modules.tasks import TASKS, task_of_arguments
from mobilemamba.checkpoints import read_file
from mobilemamba.errors import UserError, require
from mobilemamba.metadata import ModelMetadata
from mobilemamba.weights import SOURCES

RECIPE_TRAINER = {
    "max_epochs": 300,
    "gradient_clip_val": 5.0,
    "enable_model_summary": False,  # the module logs the network's size
    "use_distributed_sampler": False,  # the datamodules split the data over processes, without padding
}

MAX_CPU_PROCESSES = 16
"""Number of CPU processes that is always allowed, to try a recipe for many devices; more need as many cores."""

TENSORBOARD_CALLBACKS: dict[str, type[Callback]] = {
    "scalar_layout": callbacks.ScalarLayout,
    "config_text": callbacks.ConfigText,
    "hyperparameters": callbacks.Hyperparameters,
    "complexity": callbacks.ComplexityTable,
    "sample_images": callbacks.SampleImages,
    "class_results": callbacks.ClassResults,
    "scan_decay": callbacks.ScanDecays,
    "receptive_field": callbacks.ReceptiveField,
    "dense_samples": callbacks.DenseSamples,
}
"""Callbacks that only write into TensorBoard."""

CALLBACKS: dict[str, type[Callback]] = {
    "ema": callbacks.EMA,
    "best_checkpoint": callbacks.BestCheckpoint,
    "last_checkpoint": callbacks.LastCheckpoint,
    "interrupt": callbacks.SaveOnInterrupt,
    "non_finite": callbacks.NonFiniteGuard,
    "throughput": callbacks.Throughput,
    "part_norms": callbacks.PartNorms,  # after non_finite, which removes the gradients of a skipped step
    **TENSORBOARD_CALLBACKS,
    "export": callbacks.ExportAtEnd,
    "predictions": callbacks.PredictionsFile,
    "dense_predictions": callbacks.DensePredictions,
    "record": callbacks.RunRecording,
    "summary": callbacks.RunSummary,
}
"""Every callback by its config section, in the order in which they run; ``enable.SECTION: false`` turns one off."""


class SaveFitConfig(SaveConfigCallback):
    """Save the resolved config of a fit, but not that of an evaluation."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write config.yaml into the run's folder, which may be that of a resumed run.

        Raises:
            UserError: When the folder holds checkpoints of another run.
        """
        if stage != "fit":
            return
        folder = Path(str(trainer.log_dir))  # the same in all processes
        checkpoints = folder / "checkpoints"
        resumed_from = self.config["ckpt_path"]  # the trainer knows it only after its setup
        resumed = resumed_from is not None and folder.resolve() in Path(resumed_from).resolve().parents
        if not resumed and any(checkpoints.glob("*.ckpt")):
            raise UserError(
                f"The folder {folder} holds the checkpoints of a run: resume it with --run.resume auto or "
                f"--ckpt_path {checkpoints / 'last.ckpt'}, or choose another run.version or run.name."
            )
        self.overwrite = True
        super().setup(trainer, pl_module, stage)


class CommandLine(LightningCLI):
    """Parse arguments, build the parts and run one of fit, validate, test and predict.

    Args:
        args: Arguments as on the command line; None takes those of the process.
        exit_on_error: Whether arguments that cannot be parsed end the process instead of raising an ArgumentError.
    """

    def __init__(self, args: list[str] | None = None, exit_on_error: bool = True) -> None:
        # With the default usage, every error would come after two screens of options.
        usages = {
            name: {"usage": f"lightning {name} [--config FILE] [--SECTION.OPTION VALUE ...]"}
            for name in self.subcommands()
        }
        words = [str(word) for word in args] if isinstance(args, (list, tuple)) else None
        self.task = task_of_arguments(words)
        super().__init__(
            model_class=TASKS[self.task].module,
            datamodule_class=TASKS[self.task].data,
            subclass_mode_data=True,
            parser_class=Parser,
            save_config_callback=SaveFitConfig,
            trainer_defaults=dict(RECIPE_TRAINER),
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # checkpoints describe their network themselves
            # Subcommands take both from here. Abbreviations would turn a mistyped option into another one.
            parser_kwargs={"allow_abbrev": False, "exit_on_error": exit_on_error, **usages},
            args=args,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of run and callbacks, and link options that must be equal."""
        parser.add_argument("--task", type=str, default=self.task, help=f"What is trained: {', '.join(TASKS)}.")
        parser.add_class_arguments(Run, "run")
        switches = parser.add_argument_group("Which callbacks run; each has its options in the section of its name")
        for section, callback in CALLBACKS.items():
            summary = (callback.__doc__ or "").partition("\n")[0]
            is_used = section not in TASKS[self.task].left_out
            switches.add_argument(f"--enable.{section}", type=bool, default=is_used, help=summary)
            parser.add_class_arguments(callback, section)
        for source, target in TASKS[self.task].links.items():
            parser.link_arguments(source, target, apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Do not take options from checkpoints: Lightning would load the file before it is checked."""

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint before data are read or a network is built.

        Raises:
            FileNotFoundError: When there is no such file.
            UserError: When the file is damaged or holds code, there is nothing to evaluate, or weights_only is false.
        """
        options = self.config[self.subcommand]
        if options["weights_only"] is False:
            raise UserError(
                "weights_only = false must be true or left out: checkpoints of this project hold only tensors and "
                "plain values."
            )
        options["weights_only"] = True  # with null an environment variable of torch would decide
        found = self._find_checkpoint() if self.subcommand == "fit" and options["run"]["resume"] else None
        path, weights = options["ckpt_path"], options["model"]["weights"]
        if path is None and weights is None and self.subcommand != "fit":
            raise UserError(
                f"lightning {self.subcommand} needs weights: give --ckpt_path runs/.../best.ckpt, or --model.weights "
                f"with {SOURCES}."
            )
        content = {} if path is None else read_file(Path(path)) if found is None else found
        self._description = content.get("mobilemamba", {})
        trained, epochs = content.get("epoch", -1) + 1, options["trainer"]["max_epochs"]
        if self.subcommand == "fit" and path is not None and epochs is not None and 0 <= epochs <= trained:
            rank_zero_info(
                f"This run has already finished its {trained} epochs: increase trainer.max_epochs to train longer. Its "
                "missing files are written now."
            )
        if path is not None and weights not in (None, self._description.get("started_from")):
            raise UserError(
                f"model.weights = {weights!r} and --ckpt_path {path} cannot go together: --ckpt_path resumes a run or "
                "evaluates its checkpoint, model.weights are the starting weights of a new run. Give one of them."
            )

    def _find_checkpoint(self) -> dict[str, Any] | None:
        """Set the options to resume the newest run; return the content of its checkpoint, if any."""
        options = self.config[self.subcommand]
        run = Run(**options["run"].as_dict()).newest()
        options["run"]["version"] = run.version
        found = newest_whole_checkpoint(run.path() / LAST_CHECKPOINT)
        if found is None:
            return None
        options["ckpt_path"] = str(found[0])
        return found[1]

    def instantiate_classes(self) -> None:
        """Build the parts; starting weights are not loaded if a checkpoint will replace them."""
        model = self.config[self.subcommand]["model"]
        weights = model["weights"]
        if self._description:
            model["weights"] = None
        super().instantiate_classes()
        model["weights"] = weights  # the saved config must have it
        is_evaluation = self.subcommand != "fit"
        if self.model.start is not None:
            metadata = self.model.start.weights.metadata
        elif is_evaluation and "metadata" in self._description:
            metadata = ModelMetadata.from_dict(self._description["metadata"])
        else:
            metadata = None  # a resumed run keeps its config
        if metadata is not None:
            follow_weights(self.datamodule, metadata, is_evaluation)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the enabled callbacks and, in fit, the log of run.logger.

        Raises:
            UserError: When options of the trainer contradict each other or cannot be used on this machine.
        """
        built = self.config_init[self.subcommand]
        kwargs = {**built.trainer, **kwargs}
        given = kwargs["callbacks"] or []
        # Most callbacks act only in fit; elsewhere they would only try to restore their state.
        of_predict = {"predictions", "dense_predictions"}
        used_by = {"fit": CALLBACKS.keys() - of_predict, "predict": of_predict}
        used = used_by.get(str(self.subcommand), {"class_results"})
        if kwargs["enable_checkpointing"] is False:
            used = used - {"interrupt"}
        own = [built[section] for section in CALLBACKS if section in used and built.enable[section]]
        given = given if isinstance(given, list) else [given]
        if kwargs.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in given):
            given = [*given, callbacks.ShortProgressBar()]
        kwargs["callbacks"] = [*given, *own]
        if self.subcommand != "fit":
            kwargs["logger"] = False  # an evaluation only prints its metrics
            on_cpu = kwargs["accelerator"] == "cpu" or not torch.accelerator.is_available()
            if on_cpu and kwargs["precision"] == "16-mixed":  # Lightning would use bfloat16, whose metrics differ
                kwargs["precision"] = "32-true"
        else:
            path = self.config[self.subcommand]["ckpt_path"]
            resumed = None if path is None or built.run.version is not None else run_of_checkpoint(Path(path))
            run = built.run if resumed is None else replace(resumed, logger=built.run.logger)
            self._run_folder = run.path()
            kwargs["default_root_dir"] = kwargs["default_root_dir"] or str(self._run_folder)  # for runs without logger
            if kwargs["logger"] in (None, True):
                kwargs["logger"] = run.make_logger()
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            # Everything here is built from the user's options.
            raise UserError(f"The trainer's options cannot be used: {error}") from error
        _check_trainer(trainer)
        keep_checkpoints_whole(trainer)
        return trainer

    def fit(self, **options: Any) -> None:
        """Train; Lightning's errors about a trainer option or a monitored metric become a UserError."""
        try:
            with removed_where_refused(self._run_folder, self.trainer), held_alone(self._run_folder, self.trainer):
                self.trainer.fit(**options)
        except (MisconfigurationException, RuntimeError, ValueError) as error:
            _check_monitors(self.trainer, error)
            names = self.config_init[self.subcommand].trainer.keys()
            if isinstance(error, ValueError) and any(f"`{name}`" in str(error) for name in names):
                raise UserError(str(error)) from error
            raise

    def predict(self, **options: Any) -> None:
        """Predict; callbacks write the predictions, which are not returned to save memory."""
        self.trainer.predict(**{**options, "return_predictions": False})

    def failed_exports(self) -> bool:
        """Return whether an export of a fit has failed."""
        exports = (c for c in self.trainer.callbacks if isinstance(c, callbacks.ExportAtEnd))  # type: ignore[attr-defined]
        return any(result.error is not None for export in exports for result in export.results)


def _check_trainer(trainer: Trainer) -> None:
    """Refuse options that Lightning accepts but that fail later without a clear message."""
    accumulated, devices = trainer.accumulate_grad_batches, trainer.num_devices
    require(accumulated > 0, "trainer.accumulate_grad_batches", accumulated, "1 or more")
    if isinstance(trainer.accelerator, CPUAccelerator):
        most = max(os.cpu_count() or 1, MAX_CPU_PROCESSES)
        require(devices <= most, "trainer.devices", devices, f"at most {most}: on a CPU each device is a process")


def _check_monitors(trainer: Trainer, error: Exception) -> None:
    """Name the logged metrics if Lightning's error is about a monitored metric that does not exist.

    Raises:
        UserError: Instead of Lightning's error.
    """
    logged = sorted(trainer.callback_metrics)
    for callback in [*trainer.early_stopping_callbacks, *trainer.checkpoint_callbacks]:
        monitor = getattr(callback, "monitor", None)
        named = f"`{monitor}`" in str(error) or f"monitor={monitor!r}" in str(error)
        if logged and named and monitor not in logged:
            nearest = get_close_matches(str(monitor), logged, n=1, cutoff=0.0)[0]
            raise UserError(
                f"{type(callback).__name__}.monitor = {monitor!r} must be a logged metric, such as {nearest!r}; "
                f"there are {', '.join(logged)}."
            ) from error
