"""Rows of text as a table for a terminal, as Markdown, or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

LEFT = 2
"""Columns that are aligned to the left; the others are to the right."""
Rows = Sequence[Sequence[str]]
"""The header first; all of the same length."""


def terminal(rows: Rows) -> str:
    """Columns as wide as they have to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [str.ljust if i < LEFT else str.rjust for i in range(len(widths))]
    lines = (
        "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True)) for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Rows) -> str:
    """A table of GitHub's Markdown."""
    rules = ["---" if i < LEFT else "---:" for i in range(len(rows[0]))]
    header, *body = ([cell.replace("|", r"\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rules, *body))


def comma_separated(rows: Sequence[Sequence[object]]) -> str:
    """CSV (RFC 4180, with lines that end as on Unix); nothing for None."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().removesuffix("\n")
