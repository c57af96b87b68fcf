"""The console script ``mobilemamba``: one subcommand per module, each with HELP, add_arguments and run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mobilemamba.benchmark import command as benchmark_command
from mobilemamba.benchmark.networks import BenchmarkError
from mobilemamba.checkpoints import CheckpointError
from mobilemamba.export import ExportError
from mobilemamba.export import command as export_command
from mobilemamba.match import command as match_command
from mobilemamba.match.errors import MatchError
from mobilemamba.receptive_field import command as receptive_field_command
from mobilemamba.receptive_field.errors import ReceptiveFieldError
from mobilemamba.study import command as study_command
from mobilemamba.study.errors import StudyError
from mobilemamba.study.reporting import command as report_command
from mobilemamba.study.reporting.errors import ReportError

SUBCOMMANDS = {
    "ablate": study_command,
    "benchmark": benchmark_command,
    "erf": receptive_field_command,
    "export": export_command,
    "match": match_command,
    "report": report_command,
}

WRITTEN_FOR_USERS = (
    BenchmarkError,
    CheckpointError,
    ExportError,
    MatchError,
    ReceptiveFieldError,
    ReportError,
    StudyError,
    OSError,
)
"""Errors whose message says what the user can mend."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Command line without the program's name; None takes that of the process.

    Returns:
        Exit status: 0, or 1 after an error that the user can mend, which is printed on one line; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="mobilemamba", description="MobileMamba networks outside of training.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in SUBCOMMANDS.items():
        module.add_arguments(subparsers.add_parser(name, help=module.HELP, description=module.HELP.capitalize() + "."))
    parsed = parser.parse_args(arguments)
    try:
        SUBCOMMANDS[parsed.command].run(parsed)
    except WRITTEN_FOR_USERS as error:
        print(f"mobilemamba {parsed.command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"mobilemamba {parsed.command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
