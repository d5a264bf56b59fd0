"""CSV as this package writes and reads its own: no cell of it is a formula.

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
    """The text of a CSV file with these lines."""
    return "".join(map(_line, lines))


def from_csv(text: str) -> list[dict[str, str]]:
    """The rows of such a file, by the names in its first line."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [{_plain(name): _plain(cell) for name, cell in row.items()} for row in rows]


def _line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    # With its own line ends it quotes both characters of them, with others not always.
    csv.writer(buffer).writerow([_neutral(cell) for cell in cells])
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _neutral(cell: Any) -> Any:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _is_number(cell):
        return f"'{cell}"
    return cell


def _plain(cell: Any) -> Any:
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
