"""A part of a Markdown file that a script writes, between two markers."""

from __future__ import annotations

from pathlib import Path


def around_markers(path: Path, name: str) -> tuple[str, str]:
    """Return a file's text up to and from the lines ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        ValueError: When the file lacks them.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found_begin, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(f"{path} has no place for the table: write the lines {begin} and {end} into it.")
    return before + begin, end + after


def replace_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers found by :func:`around_markers`."""
    before, after = around_markers(path, name)
    path.write_text(f"{before}\n{text}\n{after}")
