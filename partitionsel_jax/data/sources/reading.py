"""Streaming readers: the rows of a JSON, CSV, Parquet or Arrow file, one after the other.

These forms of JSON are read: one array of objects; an object, or a list of messages, a line; the
same spread over lines, one after the other; one object whose only list of objects are the rows. The
cells of CSV are parted by commas, semicolons or tabs, whichever part the header into most.
"""

import codecs
import collections
import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import IO, Any

from partitionsel_jax.data.sources.files import (
    TEXT_FORMATS,
    SourceFile,
    check_format,
    opened,
    reading_errors,
)
from partitionsel_jax.data.sources.rows import INVALID_UTF8, TOO_DEEP, RawRow, check_names, is_utf8
from partitionsel_jax.data.sources.tables import read_table, table_columns
from partitionsel_jax.file_errors import one_line

# The column of a row that is a list of messages and nothing else.
MESSAGES = "messages"
# Keys that tell a turn of a conversation from any other object.
_TURN_ROLES = ("role", "from")
_WINDOW = 1 << 20
# Bytes that show the encoding and the form of a file, and rows that show its columns.
_HEAD, _PEEK = 1 << 20, 100
# Characters of a line, and of a cell of CSV. A file need not have line ends, and an open quote
# makes the rest of it one cell: neither is read into memory as a whole.
_LONGEST_LINE, _LONGEST_CELL = 1 << 26, 1 << 24
# Blank lines that may follow each other: millions of them pack into next to nothing.
_MOST_BLANK = 1 << 20
_WHITE = " \t\r\n"
_SPACE = re.compile(rf"[{_WHITE}]*")
_COMMA = re.compile(rf"[{_WHITE}]*,?")
# The signs that begin what Python and JavaScript know and JSON does not: quotes, comments, names.
_OTHER_SIGNS = frozenset("'/#NTFu")
_decode = json.JSONDecoder().raw_decode
# The longest token that JSON's errors point to the beginning of when the text ends inside it.
_TOKEN = 16
_DELIMITERS = ",;\t"
# Lines of CSV that show what parts the cells.
_SAMPLE = 40
_SEPARATOR = re.compile(r"sep=(.)[\r\n]*")


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
        yield from read_table(file, columns)
        return
    with reading_errors(file.path, file.name):
        with opened(file) as stream:
            head = stream.read(_HEAD)
        check_format(head, file.name)
        encoding = json.detect_encoding(head)
        # A surrogate stands for what is not UTF-8, and half a pair of UTF-16 is as wrong.
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        newline = "" if file.format == "csv" else "\n"
        with opened(file) as stream, io.TextIOWrapper(stream, encoding, errors, newline) as text:
            if file.format == "csv":
                yield from _csv(text, file.name)
                return
            start = codecs.getincrementaldecoder(encoding)(errors).decode(head).lstrip(_WHITE)
            form = _form(start, len(head) < _HEAD, file.is_document)
            if form == "lines":
                yield from _lines(text, file)
            else:
                yield from _FORMS[form](_Window(text, file.name))


def column_names(file: SourceFile) -> list[str]:
    """The columns of a file; of JSON, those of its first rows."""
    if file.format not in TEXT_FORMATS:
        return table_columns(file)
    with contextlib.closing(read(file)) as raw:
        peeked = [row.fields for row in itertools.islice(raw, _PEEK) if not row.problem]
    return list(dict.fromkeys(name for fields in peeked for name in fields))


def _form(start: str, whole: bool, is_document: bool) -> str:
    """The form of JSON, as its start tells: one of `_FORMS`, or "lines".

    Args:
      start: of the text, without white space before it.
      whole: whether it is all there is.
      is_document: whether its name says one JSON text.
    """
    value: Any = None
    fault: Exception | None = None
    rest, end = "", len(start)
    try:
        value, end = _decode(start)
        rest = start[end:].lstrip(_WHITE)
    except (ValueError, RecursionError) as error:
        fault = error
    if start.startswith("["):
        # One array of all rows, or many of a row's messages.
        return "values" if rest.startswith(("[", ",")) and _is_conversation(value) else "array"
    line = start.partition("\n")[0]
    if not start.startswith("{") or line == start or (fault is None and end <= len(line)):
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


def _is_conversation(value: Any) -> bool:
    """Returns whether a value is a list of turns."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and any(key in first for key in _TURN_ROLES)


def _only_list(value: Any) -> list[dict[str, Any]] | None:
    """The one list of objects that an object holds, unless they are the turns of a conversation."""
    values = value.values() if isinstance(value, dict) else ()
    lists = [v for v in values if isinstance(v, list) and v and isinstance(v[0], dict)]
    return lists[0] if len(lists) == 1 and not _is_conversation(lists[0]) else None


def _whole_lines(text: IO[str], name: str) -> Iterator[str]:
    """The lines of a text, none of which is so long that it would fill the memory."""
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE and not line.endswith("\n"):
            raise ValueError(
                f"{name} has a line of more than {_LONGEST_LINE:,} characters; write the file as "
                "JSON Lines, each object on a line of its own, or as Parquet"
            )
        yield line


def _check_blank(blank: int, name: str) -> None:
    """Raises ValueError if more blank lines follow each other than a file of rows has."""
    if blank > _MOST_BLANK:
        raise ValueError(f"{name} has more than {_MOST_BLANK:,} blank lines in a row; remove them")


def _lines(text: IO[str], file: SourceFile) -> Iterator[RawRow]:
    """JSON Lines, or one object that holds a list of the rows; blank lines are passed over."""
    lines = _filled_lines(text, file.name)
    begin = list(itertools.islice(lines, 2))
    if len(begin) == 1 and file.is_document and is_utf8(begin[0][1]):
        with contextlib.suppress(ValueError, RecursionError):
            if rows := _only_list(json.loads(begin[0][1])):
                yield from itertools.starmap(_row, enumerate(rows, 1))
                return
    for number, line in itertools.chain(begin, lines):
        try:
            values = _values_of(line)
        except RecursionError:
            yield RawRow(number, {}, TOO_DEEP)
        except ValueError as error:
            written = line.rstrip(_WHITE)
            is_cut = not written.endswith("}") or _is_cut(error, len(written), 0)
            if is_cut and not line.endswith("\n"):
                raise _broken(file.name, number, "the file ends inside it") from None
            yield RawRow(number, {}, "not JSON" if is_utf8(line) else INVALID_UTF8)
        else:
            for value in values:
                yield _row(number, value, line)


def _filled_lines(text: IO[str], name: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers and without the marks of joined files."""
    blank = 0
    for number, line in enumerate(_whole_lines(text, name), 1):
        blank = blank + 1 if line.isspace() else 0
        _check_blank(blank, name)
        if not blank:
            yield number, line.removeprefix("\ufeff")


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
    """JSON that is decoded value by value out of a window of its text.

    Attributes:
      row: the row that is read, for errors.
    """

    def __init__(self, stream: IO[str], name: str):
        self._stream, self._name, self.row = stream, name, 0
        self._text, self._at = "", 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, characters: str) -> str:
        """The next character, which must be one of these."""
        found = self.peek()
        if not found or found not in characters:
            wanted = " or ".join(map(repr, characters))
            at_end = "the end of the file" if not found else repr(found)
            raise _broken(self._name, self.row, f"expected {wanted}, got {at_end}")
        self._at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """The next value and its text."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if _is_cut(error, len(self._text)) and self._more():
                    continue
                raise self._fault(error) from None
            # A number may go on where the window ends.
            if type(value) in (int, float) and end > len(self._text) - _TOKEN and self._more():
                continue
            text, self._at = self._text[self._at : end], end
            return value, text

    def items(self) -> Iterator[RawRow]:
        """The values of an array whose first bracket is read, to behind its last one."""
        self.row = 0
        more = self.peek() != "]" or not self.skip("]")
        while more:
            self.row += 1
            yield _row(self.row, *self.value())
            more = self.skip(",]") == ","

    def finish(self) -> None:
        """Raises ValueError unless nothing follows."""
        if found := self.peek():
            raise _broken(self._name, self.row, f"{found!r} follows where its JSON ends")

    def error(self, reason: str) -> ValueError:
        """The error for a file in another form than it should have."""
        return ValueError(
            f"{self._name} is one JSON object with {reason}; write an array of objects, or one "
            "object a line"
        )

    def _fault(self, error: Exception) -> ValueError:
        """The error for a value that cannot be read."""
        if not isinstance(error, json.JSONDecodeError):  # whole, and more than Python takes
            return ValueError(
                f"{self._name} cannot be read at row {self.row} ({one_line(error)}); mend that "
                "row, or leave it out"
            )
        if self._text[error.pos : error.pos + 1] in _OTHER_SIGNS:
            return ValueError(
                f"{self._name} is not JSON at row {self.row} ({error}); JSON has double quotes, "
                "true, false and null, and no comments: write it again as JSON"
            )
        return _broken(self._name, self.row, str(error))

    def _more(self) -> bool:
        more = self._stream.read(max(_WINDOW, len(self._text) - self._at))
        if more:
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)


def _array(window: _Window) -> Iterator[RawRow]:
    """A JSON array and nothing else."""
    window.skip("[")
    yield from window.items()
    window.finish()


def _values(window: _Window) -> Iterator[RawRow]:
    """Values one after the other, each on as many lines as it takes; commas may stand between."""
    while window.peek():
        window.row += 1
        yield _row(window.row, *window.value())
        if window.peek() == ",":
            window.skip(",")


def _document(window: _Window) -> Iterator[RawRow]:
    """A JSON object, of whose values exactly one is a list of objects: those are the rows."""
    lists, more, window.row = 0, "{", 1
    window.skip(more)
    while more != "}":
        window.value()
        window.skip(":")
        if window.peek() != "[":
            window.value()
        elif window.skip("[") and window.peek() == "{":
            lists += 1
            if lists > 1:
                raise window.error("several lists of objects")
            yield from window.items()
        else:
            collections.deque(window.items(), maxlen=0)
        more = window.skip(",}")
    window.finish()
    if not lists:
        raise window.error("no list of objects")


_FORMS = {"array": _array, "values": _values, "document": _document}


def _broken(name: str, number: int, reason: str) -> ValueError:
    """The error for a file that cannot be read on."""
    return ValueError(
        f"{name} is damaged or cut short at row {number} ({reason}); fetch or write it again"
    )


def _is_cut(error: Exception, size: int, token: int = _TOKEN) -> bool:
    """Returns whether JSON of that size may be right but for its missing end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= size - token


def _row(number: int, value: Any, text: str = "") -> RawRow:
    """The row of a value, which was decoded from a text."""
    if not is_utf8(text):
        return RawRow(number, {}, INVALID_UTF8)
    if isinstance(value, dict):
        return RawRow(number, value)
    if _is_conversation(value):
        return RawRow(number, {MESSAGES: value})
    return RawRow(number, {}, "not a JSON object")


def _csv(text: IO[str], name: str) -> Iterator[RawRow]:
    """CSV with a header, in the quoting of RFC 4180; blank rows are passed over."""
    rest = _whole_lines(text, name)
    sample = list(itertools.islice(rest, _SAMPLE))
    if said := _SEPARATOR.fullmatch(sample[0]) if sample else None:
        sample = sample[1:]  # where Excel writes down what parts the cells
    delimiter = said[1] if said else _delimiter(sample)
    header: list[str] = []
    number = blank = 0
    for cells in _cells(itertools.chain(sample, rest), delimiter):
        if isinstance(cells, csv.Error):
            if "field limit" in str(cells):
                raise ValueError(
                    f"{name} has a cell of more than {_LONGEST_CELL:,} characters at row {number}; "
                    "close the quote that is open there, or write the file as JSON Lines or Parquet"
                )
            # Anything else is an open quote, which swallows the rows that follow.
            if "expected after" not in str(cells):
                raise ValueError(
                    f"{name} is damaged or cut short at row {number} ({cells}); close the quote "
                    "that is open there, or write the file again"
                )
            yield RawRow(number, {}, "not CSV")
            number += 1
            continue
        is_blank = not any(cell and not cell.isspace() for cell in cells)
        blank = blank + 1 if is_blank else 0
        _check_blank(blank, name)
        if is_blank:
            number += bool(header)
            continue
        if not header:
            header = cells
            check_names(header, name)
        elif len(cells) != len(header):
            yield RawRow(number, {}, "another number of cells than the header")
        elif not all(map(is_utf8, cells)):
            yield RawRow(number, {}, INVALID_UTF8)
        else:
            yield RawRow(number, dict(zip(header, cells, strict=True)))
        number += 1


def _cells(lines: Iterable[str], delimiter: str) -> Iterator[list[str] | csv.Error]:
    """The rows of CSV, and an error in place of each that has one."""
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        # The limit of the csv module is the whole process's, and others have theirs.
        usual = csv.field_size_limit(_LONGEST_CELL)
        try:
            found: list[str] | csv.Error = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            found = error
        finally:
            csv.field_size_limit(usual)
        yield found


def _delimiter(sample: Sequence[str]) -> str:
    """The sign that parts the header into most cells, and as many rows below it into as many."""

    def parted(delimiter: str) -> tuple[int, int]:
        rows: list[list[str]] = []
        # The last row of the sample may go on behind it.
        with contextlib.suppress(csv.Error):
            rows.extend(r for r in csv.reader(sample, delimiter=delimiter, strict=True) if any(r))
        columns = len(rows[0]) if rows else 0
        return (sum(len(row) == columns for row in rows) if columns > 1 else 0), columns

    return max(_DELIMITERS, key=parted)
