"""What command lines of ``lightning fit`` mean, without running any.

The answer to arguments of ``lightning fit`` has either ``error``, what is wrong with them, or

- ``config``: every option, as ``--print_config`` shows it;
- ``options``: the names of all options, dotted;
- ``network``: every field of the MobileMambaConfig, with the data's number of classes;
- ``image_size``: height and width in pixels; ``num_classes``; ``parameters``, their number in the network;
- ``missing_data``: what is wrong with the folder of the data or of a stored teacher, "" where they are there. Files in
  them are not looked at.
"""

from __future__ import annotations

import warnings
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
    """The parser of the ``lightning`` command alone: each call of :meth:`resolve` parses and builds, and none runs."""

    def __init__(self) -> None:
        super().__init__(exit_on_error=False)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse nothing yet, and leave the process's seed as it is."""
        self.config = Namespace(subcommand=None, seed_everything=False)

    def before_instantiate_classes(self) -> None:
        """Check no checkpoint."""

    def instantiate_classes(self) -> None:
        """Build nothing yet."""

    def build(self, arguments: list[str]) -> tuple[Namespace, Namespace]:
        """Return the options of fit and its parts, without a trainer: it would look for devices of this machine.

        Args:
            arguments: As on the command line, without "fit".

        Raises:
            ArgumentError: When they cannot be parsed.
        """
        config = self.parser.parse_args(["fit", *arguments])
        return config, self.parser.instantiate(config)["fit"]  # parts check their options

    def resolve(self, arguments: list[str]) -> dict[str, Any]:
        """Return what arguments of fit mean, or what is wrong with them; the module's docstring lists the entries.

        Args:
            arguments: As on the command line, without "fit".
        """
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
        with warnings.catch_warnings():
            # jsonargparse 4.49 renames skip_none; older ones know no other name.
            warnings.simplefilter("ignore", DeprecationWarning)
            text = self.parser.dump(config, skip_none=False)
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
        config: Of fit, parsed; its keys are the dotted names of all values.
    """
    names = set(config.keys()) - {"config"}
    names |= {name.replace(".init_args.", ".") for name in names if name.startswith("data.init_args.")}
    # Options of a teacher are not listed where there is none. The parser says what num_classes follows.
    return names | {"model.network.num_classes", *(f"model.teacher.{field.name}" for field in fields(TeacherConfig))}
