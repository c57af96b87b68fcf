"""Results go to the screen, to a JSON file, and between two markers of a Markdown file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from mobilemamba.environment import environment
from mobilemamba.errors import UserError
from mobilemamba.files import write_json, write_text
from mobilemamba.tables import table

RESULTS = Path("benchmarks/results")

Item = TypeVar("Item")


def table_of(items: Iterable[Item], columns: Mapping[str, Callable[[Item], str]], left: int = 1) -> str:
    """Return a Markdown table with a row for each item.

    Args:
        items: What was measured.
        columns: Text of an item's cell, by the column's name.
        left: Columns aligned to the left.
    """
    return table(tuple(columns), [[cell(item) for cell in columns.values()] for item in items], left)


def around_markers(path: Path, name: str) -> tuple[str, str]:
    """Return a file's text up to and from the lines ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        UserError: When the file lacks them.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found_begin, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise UserError(f"{path} has no place for the table: write the lines {begin} and {end} into it.")
    return before + begin, end + after


def replace_between(path: Path, name: str, text: str) -> None:
    """Print a text and let it replace what stands between the markers of a file."""
    before, after = around_markers(path, name)
    write_text(path, f"{before}\n{text}\n{after}")
    print(f"\n{text}\n\nWritten to {path}")


def write_results(path: Path, device: torch.device, **content: Any) -> None:
    """Write results, in plain JSON types, with the machine that they are from."""
    write_json(path, {"environment": environment(device), **content})
    print(f"Written to {path}")
