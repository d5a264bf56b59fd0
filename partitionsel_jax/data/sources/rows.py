"""Rows as a file has them, their single values as text, and what can be wrong with either."""

import decimal
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

INVALID_UTF8, TOO_DEEP = "invalid UTF-8", "nested too deeply"
# White space, control characters, and what Unicode has shown as nothing: the default ignorable code
# points, and the blank of Braille.
_VISIBLE = re.compile(
    "[^\\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)


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


class BadRow(ValueError):
    """A row that cannot be used; the message is the reason."""


class SkippedRow(ValueError):
    """A row that belongs to something else and is not at fault; the message says to what."""


def is_utf8(text: str) -> bool:
    """Returns whether text that was decoded with surrogates for its invalid bytes has none."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_visible(text: str) -> bool:
    """Returns whether a text holds something that can be seen."""
    return _VISIBLE.search(text) is not None


def is_null(value: Any) -> bool:
    """Returns whether a value stands for none: null, or the NaN that tables have instead."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def filled(fields: Mapping[str, Any], name: str) -> str:
    """Gives the text of a column, which must hold something that can be seen."""
    value = text(fields, name)
    if not _VISIBLE.search(value):
        raise BadRow(f"empty {name!r}")
    return value


def text(fields: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    """Gives the text of a column; a number or truth value as JSON writes it.

    Empty where the column is optional and missing or null.
    """
    value = fields.get(name)
    if isinstance(value, str):
        if not is_utf8(value):  # half a surrogate pair, written as an escape
            raise BadRow(INVALID_UTF8)
        return value
    if is_null(value) and optional:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | decimal.Decimal):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    raise BadRow(f"{name!r} is not text" if name in fields else f"no column {name!r}")


def parsed(value: str, name: str) -> Any:
    """Gives the value of a text that should be JSON; `name` is what errors call it."""
    try:
        return json.loads(value)
    except RecursionError:
        raise BadRow(TOO_DEEP) from None
    except ValueError:
        raise BadRow(f"{name} is not JSON") from None
