"""Results on the screen, in a JSON file, and between two markers of a Markdown file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from statistics import fmean, stdev
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
        rows: Cells, with | between them.
        left: Number of first columns that are aligned to the left.
    """
    names, *cells = ([cell.strip() for cell in line.split("|")] for line in (header, *rows))
    return table(names, cells, left)


def in_percent(shares: Sequence[float]) -> str:
    """Return the mean in percent, and the standard deviation if there are several."""
    spread = f" ± {100 * stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * fmean(shares):.1f}{spread}"


def machine(device: torch.device) -> str:
    """Return the device's name and the number of CPU threads, for a table's heading."""
    return f"{device_name(device)}, {threads_in_words(torch.get_num_threads())}"


def around_markers(path: Path, name: str) -> tuple[str, str]:
    """Return a file's text up to the line ``<!-- name:begin -->``, and from the line ``<!-- name:end -->``.

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
    """Print a text, and write it between the markers of a file in place of the text there."""
    before, after = around_markers(path, name)
    write_text(path, f"{before}\n{text}\n{after}")
    print(f"\n{text}\n\nWritten to {path}")


def write_results(path: Path, device: torch.device, results: Sequence[Any], **about: Any) -> None:
    """Write results and a description of the machine.

    Args:
        path: JSON file.
        device: Where the networks ran.
        results: Dataclasses, or dictionaries of plain JSON types.
        about: Further entries of the file, in plain JSON types.
    """
    plain = [asdict(result) if is_dataclass(result) else result for result in results]  # type: ignore[arg-type]
    write_json(path, {"environment": environment(device), **about, "results": plain})
    print(f"Written to {path}")
