"""Rows as a file has them, and what can be wrong with one."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

INVALID_UTF8, TOO_DEEP = "invalid UTF-8", "nested too deeply"
# Blank lines that may follow each other: millions of them pack into next to nothing.
_MOST_BLANK = 1 << 20


class RawRow(NamedTuple):
    """A row as a file has it.

    Attributes:
      number: from 1, in its file; of JSON Lines, the line.
      fields: column -> value; empty where the row cannot be read.
      problem: why not; else empty.
    """

    number: int
    fields: Mapping[str, Any]
    problem: str = ""


def is_utf8(text: str) -> bool:
    """Whether text that was decoded with surrogates for its invalid bytes has none."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_names(names: Sequence[str], file: str) -> None:
    """Raises ValueError if two columns have one name; those without a name cannot be asked for."""
    twice = [name for name, count in collections.Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(
            f"expected every column of {file} to have a name of its own, got "
            f"{', '.join(map(repr, twice))} twice or more; rename or remove them"
        )


def check_blank(lines: int, file: str) -> None:
    """Raises ValueError if more blank lines follow each other than a file of rows has."""
    if lines > _MOST_BLANK:
        raise ValueError(f"{file} has more than {_MOST_BLANK:,} blank lines in a row; remove them")
