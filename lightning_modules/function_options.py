"""A command line from a typed function: its parameters are the options, its docstring describes them.

``image_size`` is ``--image-size`` or ``--image_size``. Several values follow each other, or are a list in brackets. The
first parameter needs no name. ``--config`` reads options from YAML files. ``--checkpoint`` is the same as
``--weights``.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def run_command(program: str, commands: Mapping[str, tuple[str, str]], arguments: Sequence[str] | None) -> int:
    """Run one of several commands.

    Args:
        program: Its name.
        commands: For each command its function as "module:function", imported when called, and its description.
        arguments: Command line without the program's name; None takes that of the process.

    Returns:
        Exit status: 0; 1 after an error that the user can fix, which is printed on one line; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    overview = argparse.ArgumentParser(prog=program)
    subparsers = overview.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in commands.items():
        subparsers.add_parser(name, help=text, add_help=False)
    command = overview.parse_args(words[:1]).command
    from mobilemamba.errors import UserError  # imports torch, which --help does not need

    module, _, function = commands[command][0].partition(":")
    try:
        run(getattr(importlib.import_module(module), function), words[1:], f"{program} {command}")
    except (UserError, OSError) as error:
        print(f"{program} {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program} {command}: interrupted", file=sys.stderr)
        return 130
    return 0


def run(function: Callable[..., object], words: Sequence[str], program: str) -> None:
    """Call a function with the options of a command line; wrong options end the process with status 2.

    Args:
        function: Every parameter has a type, and its docstring describes it.
        words: Command line without program and subcommand.
        program: Name in help and errors.
    """
    from jsonargparse import ArgumentParser  # slow to import, and not needed by --help

    description = inspect.getdoc(function) or ""
    parser = ArgumentParser(prog=program, description=description.partition("\n")[0], allow_abbrev=False)
    parser.add_function_arguments(function, as_positional=False)
    parameters = inspect.signature(function).parameters
    if "config" not in parameters:
        parser.add_argument("--config", action="config", help="YAML file with options.")
    options = parser.parse_args(options_of(function, words))
    given = parser.instantiate(options)
    function(**{name: value for name, value in given.items() if name in parameters})


def options_of(function: Callable[..., object], words: Sequence[str]) -> list[str]:
    """Return a command line with every value as ``--name=value``, lists as JSON and flags as true or false.

    Args:
        function: Its parameters are the options.
        words: Command line as users write it.
    """
    hints = typing.get_type_hints(function)
    hints.pop("return", None)
    first = next(iter(hints), "")
    is_named = any(word.partition("=")[0].replace("-", "_") == f"__{first}" for word in words)
    lists: dict[str, list[str]] = {}
    options: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if _is_option(word) or (is_named and _item_type(hints[first]) is None):
                options.append(word)  # -h, or a mistake that the parser names
                continue
            is_named, word = True, f"--{first}={word}"
        name, equals, value = word.removeprefix("--").partition("=")
        name = re.sub(r"[-.]", "_", name)  # --data.root is data_root
        name = "weights" if name == "checkpoint" and name not in hints and "weights" in hints else name
        has_many = _item_type(hints.get(name)) is not None
        if hints.get(name) is bool:
            options.append(f"--{name}={value or 'true'}")
        elif name not in hints and hints.get(name.removeprefix("no_")) is bool and not equals:
            options.append(f"--{name.removeprefix('no_')}=false")
        else:  # an option with values, --help, or a mistake that the parser names
            values = [value] if equals else []
            while rest and not _is_option(rest[0]) and not equals and (has_many or not values):
                values.append(rest.pop(0))
            if has_many and values[:1] != [v for v in values if v.startswith("[")]:
                lists.setdefault(name, []).extend(values)
            else:
                options += [f"--{name}={text}" for text in values[:1]] or [f"--{name}"]
    for name, values in lists.items():
        are_words = _item_type(hints[name]) in (str, Path)
        options.append(f"--{name}=[{', '.join(map(json.dumps, values) if are_words else values)}]")
    return options


def _is_option(word: str) -> bool:
    """Return whether a word names an option; negative numbers are values."""
    return word.startswith("-") and re.fullmatch(r"-\.?\d.*", word) is None


def _item_type(hint: Any) -> Any:
    """Return the type of the items of a list, tuple or sequence, optional or not; None for other types."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return next(filter(None, map(_item_type, typing.get_args(hint))), None)
    origin = typing.get_origin(hint)
    return typing.get_args(hint)[0] if isinstance(origin, type) and issubclass(origin, Sequence) else None
