"""The ``mobilemamba`` command: one typed function per subcommand, with ``--config`` everywhere.

    mobilemamba export --checkpoint RUN/checkpoints/best.ckpt --format onnx
    mobilemamba ablate experiments/ablations/stages.yaml --devices cpu:2

Options are the functions' parameters: ``image_size`` is ``--image-size`` or ``--image_size``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from mobilemamba.errors import UserError

COMMANDS = {
    "ablate": "experiments.studies.command",
    "benchmark": "benchmarks.command",
    "erf": "lightning_modules.receptive_field.command",
    "export": "mobilemamba.export.command",
    "match": "experiments.matching.command",
    "report": "experiments.studies.reporting.command",
}
"""Module of each subcommand. A module is imported when its subcommand is called; "module:function" names a function."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Command line without the program's name; None takes that of the process.

    Returns:
        Exit status: 0, or 1 after an error that the user can mend, which is printed on one line; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    overview = argparse.ArgumentParser(prog="mobilemamba", description="MobileMamba networks outside of training.")
    overview.add_argument("command", choices=sorted(COMMANDS))
    command = overview.parse_args(words[:1]).command
    try:
        _run(command, words[1:])
    except (UserError, OSError) as error:
        print(f"mobilemamba {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mobilemamba {command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(command: str, words: list[str]) -> None:
    module_name, _, function_name = COMMANDS[command].partition(":")
    module = importlib.import_module(module_name)
    if not function_name:  # a module with HELP, add_arguments and run; all are to become functions
        legacy = argparse.ArgumentParser(prog=f"mobilemamba {command}", description=module.HELP.capitalize() + ".")
        module.add_arguments(legacy)
        module.run(legacy.parse_args(words))
        return
    function = getattr(module, function_name)
    parser = ArgumentParser(
        prog=f"mobilemamba {command}", description=(function.__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="YAML file with options.")
    parser.add_function_arguments(function, as_positional=True)
    parsed = parser.parse_args([_underscored(word) for word in words])
    parsed.pop("config")
    function(**parser.instantiate_classes(parsed))


def _underscored(word: str) -> str:
    """Return ``--image-size=256`` as ``--image_size=256``."""
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if word.startswith("--") else word


if __name__ == "__main__":
    sys.exit(main())
