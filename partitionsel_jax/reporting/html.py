"""Pieces of HTML that every page has."""

from collections.abc import Sequence


def table(headings: Sequence[str], lines: Sequence[Sequence[str]], rows: Sequence[str] = ()) -> str:
    """A table from cells that are HTML already.

    Args:
      headings: of the columns.
      lines: the cells of each row.
      rows: attributes of each row; empty for none.
    """
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    attributes = [f" {row}" if row else "" for row in rows] or [""] * len(lines)
    body = "\n".join(
        f"<tr{attribute}>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>"
        for line, attribute in zip(lines, attributes, strict=True)
    )
    return (
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )
