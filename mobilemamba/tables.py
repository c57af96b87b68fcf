"""Results as a table that reads well on the screen and in Markdown, and cells of tables for other programs."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table with aligned columns.

    Args:
        header: Names of the columns.
        rows: Their cells.
        left: Columns of words, which come first and are aligned to the left; figures are to the right.
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
    """Return a text that no spreadsheet takes for a formula: where one would, it is behind an apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
