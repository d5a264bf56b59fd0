"""CSV files in which no cell is a formula to a spreadsheet.

Spreadsheets compute what begins with =, +, -, @, a tab or a line's end, and names of methods or
domains are anybody's text. Such a text is written behind an apostrophe, which marks it as text, and
is read back without; numbers stay as they are.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def to_csv(lines: Iterable[Sequence[Any]]) -> str:
    """Writes lines of cells as the text of a CSV file."""
    return "".join(_line([_neutral(cell) for cell in cells]) for cells in lines)


def from_csv(text: str) -> list[dict[str, str]]:
    """Reads the rows of such a file, by the names in its first line."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{_plain(name): _plain(cell) for name, cell in row.items()} for row in rows]


def _line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    # Given the line end "\n", the writer of Python 3.11 leaves a "\r" in a cell without quotes.
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _neutral(cell: Any) -> Any:
    is_formula = isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell)
    return f"'{cell}" if is_formula else cell


def _plain(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
