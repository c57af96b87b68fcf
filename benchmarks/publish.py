"""Results go to the screen, to a JSON file, and between two markers of a Markdown file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from mobilemamba.environment import device_name, environment, threads_in_words
from mobilemamba.errors import UserError
from mobilemamba.files import write_json, write_text
from mobilemamba.tables import table

RESULTS = Path("benchmarks/results")


def table_of(header: str, rows: Iterable[str], left: int = 1) -> str:
    """Return a Markdown table with aligned columns.

    Args:
        header: Names of the columns, with | between them.
        rows: Their cells likewise.
        left: Columns of words, which come first and are aligned to the left.
    """
    names, *cells = ([cell.strip() for cell in line.split("|")] for line in (header, *rows))
    return table(names, cells, left)


def machine(device: torch.device) -> str:
    """Return what a table's heading says of the device: its name and the threads of CPUs."""
    return f"{device_name(device)}, {threads_in_words(torch.get_num_threads())}"


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


def write_results(path: Path, device: torch.device, results: Sequence[Any], **about: Any) -> None:
    """Write results with the machine that they are from.

    Args:
        path: JSON file.
        device: Where the networks ran.
        results: Dataclasses, or dictionaries of plain JSON types.
        about: What belongs to all results, in plain JSON types.
    """
    plain = [asdict(result) if is_dataclass(result) else result for result in results]  # type: ignore[arg-type]
    write_json(path, {"environment": environment(device), **about, "results": plain})
    print(f"Written to {path}")
