"""The ``lightning`` command: fit, validate, test and predict, configured by YAML files and typed options.

    lightning fit --config experiments/s6.yaml --data.root /path/to/imagenet
    lightning validate --config RUN/config.yaml --ckpt_path RUN/checkpoints/best.ckpt

Errors that are written for users are printed as one message; any other error is a fault and shows where it happened.
"""

from __future__ import annotations

import sys

from lightning_modules.noise import silence


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
    """Return what to tell of an error about what the user gave, or None for a fault in code.

    Such are this project's own errors for users, what the system says of files and connections, and what Lightning
    calls a misconfiguration.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from mobilemamba.errors import UserError

    if not isinstance(error, (UserError, OSError, MisconfigurationException)):
        return None
    text = str(error)
    # A loader process hands over its traceback too, whose last line is the message.
    return text.rpartition(f"{type(error).__name__}: ")[2].rstrip() if "Traceback (most recent call" in text else text
