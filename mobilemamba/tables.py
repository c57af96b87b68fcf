"""Tables for the screen and Markdown, and safe cells for CSV files."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table with aligned columns.

    Args:
        header: Names of the columns.
        rows: Their cells.
        left: Number of columns, from the first, that are aligned to the left; the others are aligned to the right.
    """
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(aligned)} |"

    rules = (f" {'-' * width} " if index < left else f" {'-' * (width - 1)}: " for index, width in enumerate(widths))
    return "\n".join([line(header), f"|{'|'.join(rules)}|", *map(line, rows)])


def safe_cell(text: str) -> str:
    """Return a text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
