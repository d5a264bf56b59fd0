"""Tables for a terminal, and in Markdown."""

from collections.abc import Mapping, Sequence


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as text, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def of_records(records: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of records that all have the same headings; empty for none."""
    return markdown(list(records[0]), [list(one.values()) for one in records]) if records else ""
