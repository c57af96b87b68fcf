"""The ``lightning`` command: fit, validate, test and predict, configured by YAML files and typed options.

    lightning fit --config experiments/s6.yaml --data.root /path/to/imagenet
    lightning validate --config RUN/config.yaml --ckpt_path RUN/checkpoints/best.ckpt

Errors that are written for users are printed as one message; any other error is a fault and shows where it happened.
"""

from __future__ import annotations

import sys
from types import TracebackType

from lightning_modules.noise import silence

WRITTEN_FOR_USERS = (
    "mobilemamba",
    "lightning_modules",
    "datamodules",
    "lightning.pytorch.trainer.connectors.accelerator_connector",  # where devices, strategy and precision are checked
)
"""Packages whose errors are messages about what was given."""


def main(args: list[str] | None = None) -> None:
    """Run the command; ends the process with status 1 after an error, 2 for arguments that cannot be parsed.

    Args:
        args: Arguments as on the command line; None takes those of the process.
    """
    silence()
    try:
        # Imported here: it takes seconds, in which errors and Ctrl-C are dealt with like any other.
        from lightning_modules.command_line import CommandLine

        command = CommandLine(args)
    except Exception as error:
        message = message_for_users(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before training: what comes later is dealt with by the trainer
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    if command.failed_exports():
        print("error: not all files were exported; the summary above says why.", file=sys.stderr)
        sys.exit(1)


def message_for_users(error: BaseException) -> str | None:
    """Return what to tell of an error about the input, or None for a fault in code."""
    if not is_for_users(error):
        return None
    text = str(error)
    # A loader process hands over its traceback too, whose last line is the message.
    return text.rpartition(f"{type(error).__name__}: ")[2].rstrip() if "Traceback (most recent call" in text else text


def is_for_users(error: BaseException) -> bool:
    """Return whether an error is a message about the input, not a fault in code.

    Such are what the system says of files and connections, what Lightning says of the trainer's options, and what code
    of this project raises itself.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if isinstance(error, (OSError, MisconfigurationException)):
        return True
    if not isinstance(error, (ValueError, RuntimeError)):
        return False
    frame = error.__traceback__
    module = ""
    while frame is not None:
        module = _module(frame)
        frame = frame.tb_next
    return any(f"{module}.".startswith(f"{package}.") for package in WRITTEN_FOR_USERS)


def _module(frame: TracebackType) -> str:
    return str(frame.tb_frame.f_globals.get("__name__", ""))
