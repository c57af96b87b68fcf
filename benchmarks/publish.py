"""Results go to the screen, to a JSON file, and between two markers of a Markdown file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mobilemamba.environment import environment
from mobilemamba.errors import UserError
from mobilemamba.files import write_json, write_text

RESULTS = Path("benchmarks/results")


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
    """Write results as JSON, with the machine that they are from.

    Args:
        path: The file.
        device: Where they were measured.
        content: Plain JSON types.
    """
    write_json(path, {"environment": environment(device), **content})
    print(f"Written to {path}")
