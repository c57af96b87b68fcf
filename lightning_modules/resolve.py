"""What command lines of ``lightning fit`` mean, without running any.

The answer to arguments of ``lightning fit`` has either ``error``, what is wrong with them, or

- ``config``: every option, as ``--print_config`` shows it;
- ``options``: the names of all options, dotted;
- ``network``: every field of the MobileMambaConfig, with the data's number of classes;
- ``image_size``: height and width in pixels; ``num_classes``; ``parameters``, their number in the network;
- ``missing_data``: what is wrong with the folder of the data, "" where it is there. Its images are not looked at.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from datamodules.classification import ClassificationDataModule
from datamodules.imagenet import ImageNetDataModule
from lightning_modules.cli import message_for_users
from lightning_modules.command_line import CommandLine
from lightning_modules.compatibility import check_data
from lightning_modules.teacher import TeacherConfig


class FitParser(CommandLine):
    """The ``lightning fit`` command, short of running: nothing is parsed or built until it is asked to."""

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Let the parsers raise their errors instead of ending the process."""
        for each in (parser, self._parser("fit")):
            each.exit_on_error = False
            each.allow_abbrev = False
        self.config = Namespace(subcommand=None)

    def _set_seed(self) -> None:
        """Leave the process as it is."""

    def before_instantiate_classes(self) -> None:
        """Check nothing."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Build none: it would look for devices, which another machine may have."""

    def resolve(self, arguments: list[str]) -> dict[str, Any]:
        """Return what arguments of fit mean, or what is wrong with them; the module's head lists the entries.

        Args:
            arguments: As on the command line, without "fit".
        """
        try:
            return self._resolve(arguments)
        except ArgumentError as error:
            return {"error": str(error)}
        except Exception as error:
            message = message_for_users(error)
            if message is None:
                raise
            return {"error": message}

    def _resolve(self, arguments: list[str]) -> dict[str, Any]:
        self.subcommand = "fit"
        self.config = self.parser.parse_args(["fit", *arguments])
        super().instantiate_classes()  # the parts have something to say of their options
        network, metadata = self.model.network_config, self.datamodule.metadata()
        check_data(network, self.datamodule.num_classes, metadata)
        with warnings.catch_warnings():
            # jsonargparse 4.49 renames skip_none; older ones know no other name.
            warnings.simplefilter("ignore", DeprecationWarning)
            config = yaml.safe_load(self._parser("fit").dump(self.config["fit"], skip_none=False))
        return {
            "config": config,
            "options": sorted(option_names(config)),
            "network": asdict(network),
            "image_size": list(metadata.image_size),
            "num_classes": self.datamodule.num_classes,
            "parameters": sum(parameter.numel() for parameter in self.model.student.parameters()),
            "missing_data": missing_data(self.datamodule),
        }


def missing_data(datamodule: ClassificationDataModule) -> str:
    """Return which folder of the data does not exist, "" where they are there or the data are in none.

    Args:
        datamodule: Data that are not loaded yet.
    """
    if isinstance(datamodule, ImageNetDataModule):
        for folder in (datamodule.root / "train", datamodule.root / "val"):
            if not folder.is_dir():
                return (
                    f"data.root = {datamodule.root} is no ImageNet folder, {folder} is missing: give the folder with "
                    "train/<class>/ and val/<class>/."
                )
    return ""


def option_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted names that may be given on the command line.

    Args:
        config: A whole config, as ``--print_config`` shows it.
    """
    for name in dotted(config):
        yield name
        if name.startswith("data.init_args."):
            yield name.replace(".init_args.", ".")
    yield "model.network.num_classes"  # known, though it follows data.num_classes: the parser says so where it is set
    # Where there is no teacher its options are not listed.
    yield from (f"model.teacher.{field.name}" for field in fields(TeacherConfig))


def dotted(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all values of a nested config."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
