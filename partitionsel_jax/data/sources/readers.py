"""Streaming readers: the rows of a JSON, CSV, Parquet or Arrow file, one after the other.

Of JSON, these forms are read: one array of objects; an object, or a list of messages, a line; the
same spread over lines, one after the other; one object whose only list of objects are the rows. Of
CSV, cells are parted by commas, semicolons or tabs, whichever part the header into most.
"""

import collections
import contextlib
import itertools
import json
import re
from collections.abc import Collection, Generator, Iterator
from typing import IO, Any

from partitionsel_jax.data.sources.csv_rows import csv_rows
from partitionsel_jax.data.sources.files import (
    TEXT_FORMATS,
    SourceFile,
    opened,
    reading_errors,
)
from partitionsel_jax.data.sources.forms import as_text, as_utf8
from partitionsel_jax.data.sources.raw_rows import (
    INVALID_UTF8,
    TOO_DEEP,
    RawRow,
    check_blank,
    is_utf8,
)
from partitionsel_jax.file_errors import one_line

# The column of a row that is a list of messages and nothing else.
MESSAGES = "messages"
# Keys that tell a turn of a conversation from any other object.
TURN_ROLES = ("role", "from")
_WINDOW = 1 << 20
# Bytes that show the form of a file.
_HEAD = 1 << 20
# Characters of a line of JSON. A file without line ends is not read into memory as a whole.
_LONGEST_LINE = 1 << 26
# Rows that show which columns a file has.
_PEEK = 100
_WHITE = " \t\r\n"
_SPACE = re.compile(rf"[{_WHITE}]*")
_COMMA = re.compile(rf"[{_WHITE}]*,?")
# How what Python and JavaScript know, and JSON does not, begins: quotes, comments, and names.
_OTHER_SIGNS = frozenset("'/#NTFu")
_decode = json.JSONDecoder().raw_decode
# The longest token that JSON's errors point to the beginning of when the text ends inside it.
_TOKEN = 16


def read(file: SourceFile, columns: Collection[str] | None = None) -> Generator[RawRow, None, None]:
    """The rows of a file in order; only a small part of it is in memory at a time.

    Text is read as UTF-8, or as UTF-16 or UTF-32 where its first bytes say so. A row that is not is
    given with its problem, as are lines that are no JSON object, and CSV lines of another number of
    cells than the header's. Blank lines are passed over, and NaN stands for null.

    Args:
      file: the file.
      columns: those that are wanted of Parquet and Arrow files, which have them apart; None for
        all.

    Raises:
      ValueError: the file is damaged, ends inside a row, is of another format than its name says,
        or has two columns of one name.
      OSError: the file cannot be read.
    """
    if file.format not in TEXT_FORMATS:
        from partitionsel_jax.data.sources.tables import read_table

        for number, fields in enumerate(read_table(file, columns), 1):
            yield RawRow(number, {}, INVALID_UTF8) if fields is None else RawRow(number, fields)
        return
    with reading_errors(file.path, file.name), opened(file) as stream:
        head, whole, stream = as_utf8(stream, file.name, _HEAD)
        if file.format == "csv":
            with as_text(stream) as text:
                yield from csv_rows(text, file.name)
            return
        start = head.decode("utf-8-sig", "surrogateescape").lstrip(_WHITE)
        form = _form(start, whole, file.is_document)
        if form == "lines":
            yield from _lines(stream, file)
            return
        with as_text(stream) as text:
            yield from _FORMS[form](_Window(text, file.name))


def column_names(file: SourceFile) -> list[str]:
    """The columns of a file; of JSON, those of its first rows."""
    if file.format not in TEXT_FORMATS:
        from partitionsel_jax.data.sources.tables import table_columns

        return table_columns(file)
    with contextlib.closing(read(file)) as raw:
        peeked = [row.fields for row in itertools.islice(raw, _PEEK) if not row.problem]
    return list(dict.fromkeys(name for fields in peeked for name in fields))


def _form(start: str, whole: bool, is_document: bool) -> str:
    """The form of JSON, as its start tells: one of `_FORMS`, or "lines".

    Args:
      start: of the text, without a byte order mark or white space before it.
      whole: whether it is all there is.
      is_document: whether its name says one JSON text.
    """
    value: Any = None
    rest: str | None = None
    fault: Exception | None = None
    try:
        value, end = _decode(start)
        rest = start[end:].lstrip(_WHITE)
    except (ValueError, RecursionError) as error:
        fault = error
    if start.startswith("["):
        # One array of all rows, or many of a row's messages.
        several = rest is not None and rest[:1] in ("[", ",") and _is_conversation(value)
        return "values" if several else "array"
    line = start.partition("\n")[0]
    if not start.startswith("{") or _starts_with_value(line) or "\n" not in start:
        return "lines"
    if fault is not None:
        # Either the object is longer than what was looked at, or there is a fault in it.
        is_long = not whole and _is_cut(fault, len(start))
        is_faulty = is_document and _is_cut(fault, len(line), 1)
        return "document" if is_long or is_faulty else "lines"
    if not rest:
        alone = _only_list(value) is None and any(map(_is_conversation, value.values()))
        return "values" if alone else "document"
    # Objects one after the other; but a list of objects and nothing else is no row.
    is_row = _only_list(value) is None or len(value) > 1
    return "values" if rest[0] in "{," and is_row else "document"


def _starts_with_value(line: str) -> bool:
    """Whether a line begins with a whole JSON value."""
    try:
        _decode(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_conversation(value: Any) -> bool:
    """Whether a value is a list of turns."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and any(key in first for key in TURN_ROLES)


def _lines(stream: IO[bytes], file: SourceFile) -> Iterator[RawRow]:
    """JSON Lines, or one object that holds a list of the rows; blank lines are passed over."""
    begun, blank = False, 0
    for number in itertools.count(1):
        line = stream.readline(_LONGEST_LINE)
        if not line:
            return
        if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            raise ValueError(
                f"{file.name} has a line of more than {_LONGEST_LINE:,} bytes, its number "
                f"{number}; write a JSON object a line, each on a line of its own"
            )
        if line.isspace():
            blank += 1
            check_blank(blank, file.name)
            continue
        blank = 0
        text = line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        try:
            values = _values_of(text)
        except RecursionError:
            yield RawRow(number, {}, TOO_DEEP)
        except ValueError as error:
            written = text.rstrip(_WHITE)
            is_cut = not written.endswith("}") or _is_cut(error, len(written), 0)
            if is_cut and not line.endswith(b"\n"):
                raise _broken(file.name, number, "the file ends inside it") from None
            yield RawRow(number, {}, "not JSON" if is_utf8(text) else INVALID_UTF8)
        else:
            is_alone = not begun and file.is_document and len(values) == 1 and is_utf8(text)
            if is_alone and (rows := _only_list(values[0])) and not stream.peek(1).strip():  # type: ignore[attr-defined]
                yield from itertools.starmap(_object, enumerate(rows, 1))
                return
            for value in values:
                yield _object(number, value) if is_utf8(text) else RawRow(number, {}, INVALID_UTF8)
        begun = True


def _values_of(line: str) -> list[Any]:
    """The value of a line; several where they follow each other, with commas or without."""
    try:
        return [json.loads(line)]
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
    values, at = [], 0
    while (at := _SPACE.match(line, at).end()) < len(line):  # type: ignore[union-attr]
        value, at = _decode(line, at)
        values.append(value)
        at = _COMMA.match(line, at).end()  # type: ignore[union-attr]
    return values


class _Window:
    """JSON that is decoded value by value out of a window of its text."""

    def __init__(self, stream: IO[str], name: str, text: str = ""):
        """Begins with `text`, and goes on with what the stream holds."""
        self._stream, self._name = stream, name
        self._text, self._at = text, 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, characters: str, number: int) -> str:
        """The next character, which must be one of these; the row is for the error."""
        found = self.peek()
        if not found or found not in characters:
            wanted = " or ".join(map(repr, characters))
            at_end = "the end of the file" if not found else repr(found)
            raise _broken(self._name, number, f"expected {wanted}, got {at_end}")
        self._at += 1
        return found

    def value(self, number: int) -> tuple[Any, str]:
        """The next value and its text; the row is for the error."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if _is_cut(error, len(self._text)) and self._more():
                    continue
                if isinstance(error, json.JSONDecodeError):
                    if self._text[error.pos : error.pos + 1] in _OTHER_SIGNS:
                        raise _not_json(self._name, number, str(error)) from None
                    raise _broken(self._name, number, str(error)) from None
                # Whole, and more than Python takes.
                raise ValueError(
                    f"{self._name} cannot be read at row {number} ({one_line(error)}); mend that "
                    "row, or leave it out"
                ) from None
            # A number may go on where the window ends.
            if type(value) in (int, float) and end > len(self._text) - _TOKEN and self._more():
                continue
            text, self._at = self._text[self._at : end], end
            return value, text

    def finish(self, number: int) -> None:
        """Raises ValueError unless nothing follows; the row is for the error."""
        if found := self.peek():
            raise _broken(self._name, number, f"{found!r} follows where its JSON ends")

    def error(self, reason: str) -> ValueError:
        """What to say of a file in another form than it should have."""
        return ValueError(
            f"{self._name} is one JSON object with {reason}; write an array of objects, or one "
            "object a line"
        )

    def _more(self) -> bool:
        more = self._stream.read(max(_WINDOW, len(self._text) - self._at))
        if more:
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)


def _array(window: _Window) -> Iterator[RawRow]:
    """A JSON array and nothing else."""
    window.skip("[", 1)
    number = yield from _items(window)
    window.finish(number)


def _items(window: _Window) -> Generator[RawRow, None, int]:
    """The values of a JSON array whose bracket is read; returns how many there are."""
    number = 0
    more = window.peek() != "]" or not window.skip("]", 1)
    while more:
        number += 1
        value, text = window.value(number)
        yield _object(number, value) if is_utf8(text) else RawRow(number, {}, INVALID_UTF8)
        more = window.skip(",]", number) == ","
    return number


def _values(window: _Window) -> Iterator[RawRow]:
    """Values one after the other, each on as many lines as it takes; commas may stand between."""
    number = 0
    while window.peek():
        number += 1
        value, text = window.value(number)
        yield _object(number, value) if is_utf8(text) else RawRow(number, {}, INVALID_UTF8)
        if window.peek() == ",":
            window.skip(",", number)


def _document(window: _Window) -> Iterator[RawRow]:
    """A JSON object, of whose values exactly one is a list of objects: those are the rows."""
    number = lists = 0
    window.skip("{", 1)
    more = True
    while more:
        window.value(number + 1)
        window.skip(":", number + 1)
        if window.peek() != "[":
            window.value(number + 1)
        elif window.skip("[", number + 1) and window.peek() == "{":
            lists += 1
            if lists > 1:
                raise window.error("several lists of objects")
            number = yield from _items(window)
        else:
            collections.deque(_items(window), maxlen=0)
        more = window.skip(",}", number + 1) == ","
    window.finish(number + 1)
    if not lists:
        raise window.error("no list of objects")


def _only_list(value: Any) -> list[dict[str, Any]] | None:
    """The one list of objects that an object holds, unless they are the turns of a conversation."""
    values = value.values() if isinstance(value, dict) else ()
    lists = [v for v in values if isinstance(v, list) and v and isinstance(v[0], dict)]
    is_rows = len(lists) == 1 and lists[0][0].keys().isdisjoint(TURN_ROLES)
    return lists[0] if is_rows else None


def _broken(name: str, number: int, reason: str) -> ValueError:
    """What to say of a file that cannot be read on."""
    return ValueError(
        f"{name} is damaged or cut short at row {number} ({reason}); fetch or write it again"
    )


def _not_json(name: str, number: int, reason: str) -> ValueError:
    """What to say of a file that is written as programs are, not as JSON."""
    return ValueError(
        f"{name} is not JSON at row {number} ({reason}); JSON has double quotes, true, false and "
        "null, and no comments: write it again as JSON"
    )


def _is_cut(error: Exception, size: int, token: int = _TOKEN) -> bool:
    """Whether JSON of that size may be right but for its missing end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= size - token


def _object(number: int, value: Any) -> RawRow:
    """The row of a decoded value."""
    if isinstance(value, dict):
        return RawRow(number, value)
    if _is_conversation(value):
        return RawRow(number, {MESSAGES: value})
    return RawRow(number, {}, "not a JSON object")


_FORMS = {"array": _array, "values": _values, "document": _document}
