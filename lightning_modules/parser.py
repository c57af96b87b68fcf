"""The parser of the ``lightning`` command: finds configs by name, and suggests corrections in errors."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from lightning.pytorch.cli import LightningArgumentParser

from datamodules import ClassificationDataModule
from lightning_modules.configs import find_configs, resolve_files
from mobilemamba.errors import UserError


class Parser(LightningArgumentParser):
    """Lightning's parser, with shorter errors about the data."""

    def add_subclass_arguments(self, baseclass: Any, nested_key: str, **options: Any) -> None:
        """Add a part whose class must be chosen, with the options of each class in its help.

        The default is suppressed, since Lightning's None would be listed in every error.
        """
        kinds = baseclass.__subclasses__()
        listed = "; ".join(f"{kind.__name__}: {', '.join(sorted(options_of_class(kind)))}" for kind in kinds)
        options["help"] = (
            f"Name of a class, and its options as --{nested_key}.OPTION. {listed}. They are described by "
            f"--{nested_key}.help {kinds[-1].__name__ if kinds else 'CLASS'}."
        )
        super().add_subclass_arguments(baseclass, nested_key, default=argparse.SUPPRESS, **options)

    def add_lightning_class_args(self, lightning_class: Any, *rest: Any, **options: Any) -> list[str]:
        """Add the options of a class.

        Where a whole number means another thing than a fraction, as in ``limit_val_batches``, 1 must not become 1.0.
        Options are parsed by the first type that takes a value, and of ``Optional[Union[int, float]]`` Python makes
        ``Optional[Union[float, int]]`` if another module has named that before.
        """
        function = inspect.unwrap(lightning_class.__init__ if inspect.isclass(lightning_class) else lightning_class)
        hints = getattr(function, "__annotations__", {})
        for name, hint in hints.items():
            kinds = get_args(hint)
            if get_origin(hint) in (Union, UnionType) and int in kinds and float in kinds:
                integers_first = tuple(sorted(kinds, key=lambda kind: kind is not int))
                hints[name] = Union[integers_first]  # noqa: UP007  # a tuple cannot be written with |
        return super().add_lightning_class_args(lightning_class, *rest, **options)

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Parse a command line; configs of this project may be named without their folder."""
        try:
            args = find_configs(list(sys.argv[1:] if args is None else args))
        except UserError as error:
            self.error(str(error))
        return super().parse_args(args, *rest, **options)

    def parse_path(self, path: Any, *rest: Any, **options: Any) -> Any:
        """Parse a config; its paths may be relative to it."""
        config = super().parse_path(path, *rest, **options)
        resolve_files(config, Path(str(path)).absolute().parent)
        return config

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """End the process with a one-line error, with a hint if no data are named."""
        # Only jsonargparse's message tells which option is missing, or unknown to the base class.
        if message.endswith(".data") or f".{ClassificationDataModule.__name__}'" in message:
            message = (
                "no data are named: give a config that names them, such as --config experiments/quickstart.yaml, or "
                "--data ImageNetDataModule --data.root FOLDER"
            )
        text = " ".join(message.split())
        return super().error(text + self._nearest(text), ex)

    def _nearest(self, message: str) -> str:
        """Return a suggestion for a mistyped option."""
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        if unknown:
            subparsers = [p for a in self._actions for p in (getattr(a, "_name_parser_map", None) or {}).values()]
            known = {option for parser in (self, *subparsers) for option in parser._option_string_actions}
            nearest = get_close_matches(unknown[1], known, n=1)
            return f"; did you mean {nearest[0]}?" if nearest else ""
        unknown = re.search(r"class_path '([\w.]+)': Option '(\w+)' is not accepted", message)
        if unknown:
            module, _, name = unknown[1].rpartition(".")
            known = set(options_of_class(getattr(importlib.import_module(module), name)))
            nearest = get_close_matches(unknown[2], known, n=1)
            return f"; did you mean {nearest[0]}?" if nearest else ""
        return ""


def options_of_class(kind: type) -> dict[str, Any]:
    """Return the options of a class and its base classes, each with its default."""
    options: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        own = vars(base).get("__init__")
        if own is not None and base is not object:
            options |= {name: parameter.default for name, parameter in inspect.signature(own).parameters.items()}
    return {name: value for name, value in options.items() if name not in ("self", "args", "kwargs")}
