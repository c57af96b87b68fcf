"""The ``lightning`` command: fit, validate, test and predict, configured by YAML files and typed options.

    lightning fit --config experiments/s6.yaml --data.root /path/to/imagenet
    lightning validate --config RUN/config.yaml --ckpt_path RUN/checkpoints/best.ckpt

Errors that are written for users are printed as one message; any other error is a fault and shows where it happened.
"""

from __future__ import annotations

import sys
from types import TracebackType

OWN_PACKAGES = ("mobilemamba", "lightning_modules", "datamodules")
"""Packages whose errors are written for users."""


def main(args: list[str] | None = None) -> None:
    """Run the command; ends the process with status 1 after an error, 2 for arguments that cannot be parsed.

    Args:
        args: Arguments as on the command line; None takes those of the process.
    """
    # Imported here: an error in an import is then reported like any other.
    from lightning_modules.command_line import CommandLine

    try:
        command = CommandLine(args)
    except Exception as error:
        if not is_for_users(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    if command.failed_exports():
        print("error: not all files were exported; the summary above says why.", file=sys.stderr)
        sys.exit(1)


def is_for_users(error: BaseException) -> bool:
    """Return whether an error is a message of this project about its input, not a fault in code.

    Such errors are raised on purpose, by code of this project: the innermost frame that is not Python's own is ours.
    """
    if not isinstance(error, (ValueError, OSError, RuntimeError)):
        return False
    frame = error.__traceback__
    module = ""
    while frame is not None:
        module = _module(frame)
        frame = frame.tb_next
    return module.split(".")[0] in OWN_PACKAGES


def _module(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__", ""))
