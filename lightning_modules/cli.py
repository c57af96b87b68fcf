"""The ``lightning`` command: fit, validate, test and predict, configured by YAML files and typed options.

    lightning fit --config experiments/s6.yaml --data.root /path/to/imagenet
    lightning validate --config RUN/config.yaml --ckpt_path RUN/checkpoints/best.ckpt

Errors that are written for users are printed on one line. Any other error is a fault and keeps its traceback.
"""

from __future__ import annotations

import sys

from lightning_modules.warnings_filter import hide_known_warnings


def main(args: list[str] | None = None) -> None:
    """Run the command; ends the process with status 1 after an error, 2 for arguments that cannot be parsed.

    After a signal the status is 128 and its number: 130 for Ctrl-C, 143 for SIGTERM.

    Args:
        args: Arguments as on the command line; None takes those of the process.
    """
    hide_known_warnings()
    try:
        # These imports take seconds; errors and Ctrl-C in them must be handled too.
        from datamodules.loader_processes import end_loader_processes
        from lightning_modules.command_line import CommandLine
        from lightning_modules.distributed import leave_process_group

        try:
            command = CommandLine(args)
        except BaseException:
            end_loader_processes()
            raise
        finally:
            leave_process_group()
    except Exception as error:
        message = message_for_users(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before training; the trainer handles later ones
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as end:
        # Lightning ends with 1 after Ctrl-C, and with 0 after SIGTERM.
        if isinstance(end.__context__, KeyboardInterrupt):
            sys.exit(130)
        sys.exit(143 if type(end).__name__ == "SIGTERMException" else end.code)
    if command.failed_exports():
        print("error: not all files were exported; the summary above says why.", file=sys.stderr)
        sys.exit(1)


def message_for_users(error: BaseException) -> str | None:
    """Return one line for an error that the user can fix, or None for a fault in the code.

    The user can fix four kinds of errors: UserError, the system's errors about files and connections, Lightning's
    MisconfigurationException, and loader processes that hang or were killed.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from datamodules.loader_processes import loader_failure
    from mobilemamba.errors import UserError

    failure = loader_failure(error)
    if failure is not None:
        return failure
    while not isinstance(error, (UserError, OSError, MisconfigurationException)):
        # jsonargparse wraps errors of classes about their options in its own ValueError.
        if not isinstance(error, ValueError) or error.__cause__ is None:
            return None
        error = error.__cause__
    text = str(error)
    if "Traceback (most recent call" in text:  # of a loader process; its last line is the message
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split())


if __name__ == "__main__":
    main()
