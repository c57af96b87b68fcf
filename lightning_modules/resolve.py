"""Resolves the arguments of ``lightning fit`` without running it.

The result has either ``error``, a message, or

- ``config``: every option, as ``--print_config`` shows it;
- ``options``: the names of all options, dotted;
- ``network``: every field of the MobileMambaConfig, with the data's number of classes;
- ``image_size``: height and width in pixels; ``num_classes``; ``parameters``, their number in the network;
- ``missing_data``: an error message if the folder of the data or of a stored teacher is missing, otherwise "". Files in
  them are not checked.
"""

from __future__ import annotations

from argparse import ArgumentError
from dataclasses import asdict, fields
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lightning_modules.checks import check_data
from lightning_modules.cli import message_for_users
from lightning_modules.command_line import CommandLine
from lightning_modules.stored_distillation import missing_store
from lightning_modules.teacher import TeacherConfig


class FitParser(CommandLine):
    """The parser of the ``lightning`` command, without running anything."""

    def __init__(self) -> None:
        super().__init__(exit_on_error=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Do not parse yet, and do not seed the process."""
        self.config = Namespace(subcommand=None, seed_everything=False)

    def before_instantiate_classes(self) -> None:
        """Do not check a checkpoint."""

    def instantiate_classes(self) -> None:
        """Do not build anything yet."""

    def build(self, arguments: list[str]) -> tuple[Namespace, Namespace]:
        """Return the options and parts of fit, without a trainer, which would look for devices.

        Args:
            arguments: As on the command line, without "fit".

        Raises:
            ArgumentError: When they cannot be parsed.
        """
        config = self.parser.parse_args(["fit", *arguments])
        return config, self.parser.instantiate(config)["fit"]  # parts check their options

    def resolve(self, arguments: list[str]) -> dict[str, Any]:
        """Resolve arguments, given as on the command line without "fit"; the result is described above."""
        try:
            config, built = self.build(arguments)
            network, metadata = built.model.network_config, built.data.metadata()
            check_data(network, built.model.num_classes, built.data.num_classes, metadata)
        except ArgumentError as error:
            return {"error": str(error)}
        except Exception as error:
            message = message_for_users(error)
            if message is None:
                raise
            return {"error": message}
        text = self.parser.dump(config, skip_unset=False, skip_validation=True)  # validated when parsed
        return {
            "config": yaml.safe_load(text)["fit"],
            "options": sorted(option_names(config["fit"])),
            "network": asdict(network),
            "image_size": list(metadata.image_size),
            "num_classes": built.data.num_classes,
            "parameters": sum(parameter.numel() for parameter in built.model.student.parameters()),
            "missing_data": built.data.missing() or missing_store(getattr(built.model, "teacher_config", None)),
        }


def option_names(config: Namespace) -> set[str]:
    """Return the dotted names that may be given on the command line.

    Args:
        config: The parsed options of fit; its keys are the dotted names of all values.
    """
    names = set(config.keys()) - {"config"}
    names |= {name.replace(".init_args.", ".") for name in names if name.startswith("data.init_args.")}
    # Options of a teacher are not listed if there is none. The parser reports that num_classes is linked.
    return names | {"model.network.num_classes", *(f"model.teacher.{field.name}" for field in fields(TeacherConfig))}
