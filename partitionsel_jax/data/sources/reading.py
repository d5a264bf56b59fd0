"""Streaming readers: the rows of a JSON, CSV, Parquet or Arrow file, one after the other.

JSON is one array of rows, one object with one list of rows, or rows that follow each other, with
commas or without, each on as many lines as it takes; a row is an object or a list of messages.
"""

import collections
import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import IO, Any

from partitionsel_jax.data.sources.files import (
    ARROW_STREAM,
    TEXT_FORMATS,
    SourceFile,
    check_format,
    check_size,
    opened,
    reading_errors,
    unreadable,
)
from partitionsel_jax.data.sources.rows import INVALID_UTF8, TOO_DEEP, RawRow, is_utf8

# The column of a row that is a list of messages and nothing else.
MESSAGES = "messages"
# Keys that distinguish a turn of a conversation from any other object.
_TURN_ROLES = ("role", "from")
# Characters of JSON that are read at a time, and rows that show the columns of a file.
_WINDOW, _PEEK = 1 << 20, 100
# Most characters of a value of JSON or a line of CSV, and of a cell: a file need not have line
# ends, and an open quote makes the rest of it one text.
_LONGEST, _LONGEST_CELL = 1 << 28, 1 << 24
# White space between values, and the marks where files that begin with one were joined.
_SPACE = re.compile("[ \t\r\n\ufeff]*")
_decode = json.JSONDecoder().raw_decode
# The longest token that JSON's errors point to the beginning of when the text ends inside it.
_TOKEN = 16
# The signs that may part the cells of CSV.
_DELIMITERS = ",;\t"
# Blank rows of it that may follow each other: millions of them pack into next to nothing.
_MOST_BLANK = 1 << 20
_SEPARATOR = re.compile(r"sep=(.)[\r\n]*")
# Rows of tables that are in memory at a time, and that a file of any size may say to have.
_BATCH, _ROWS_FREELY = 256, 1 << 20
# Packed by more than so many times, and to more bytes than these, a column is unpacked row by row:
# one long text that all rows refer to is unpacked once for each.
_PACKED_WELL, _LONG_TEXT = 200, 1 << 20


def read(
    file: SourceFile, columns: Collection[str] | None = None, names: Sequence[str] = ()
) -> Generator[RawRow, None, None]:
    """Reads the rows of a file in order; only a small part of it is in memory at a time.

    Text is read as UTF-8, or as UTF-16 or UTF-32 where its first bytes say so. A row that is not is
    given with its problem, as are lines that are no JSON object, and CSV lines of another number of
    cells than the header's. Blank lines are passed over, and what tables store as bytes is text.

    Args:
      file: the file.
      columns: the wanted ones of Parquet and Arrow files, which store them apart; None for all.
      names: the columns of CSV without a header line.

    Raises:
      ValueError: the file is damaged, ends inside a row, is of another format than its name says,
        is packed as no rows are, or has two columns of one name.
      OSError: the file cannot be read.
    """
    with reading_errors(file.path, file.name):
        if file.format not in TEXT_FORMATS:
            yield from _table(file, columns)
            return
        with opened(file) as stream:
            head = stream.peek(64)
            check_format(head, file)
            encoding = json.detect_encoding(head)
            # A surrogate stands for what is not UTF-8, and half a pair of UTF-16 is as wrong.
            errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
            newline = "" if file.format == "csv" else "\n"
            with io.TextIOWrapper(stream, encoding, errors, newline) as text:
                yield from _csv(text, file.name, names) if newline == "" else _json(text, file)


def column_names(file: SourceFile) -> list[str]:
    """Gives the columns of a file; of JSON, those of its first rows."""
    if file.format not in TEXT_FORMATS:
        with reading_errors(file.path, file.name), _opened_table(file) as table:
            return _schema(table).names
    with contextlib.closing(read(file)) as raw:
        peeked = [row.fields for row in itertools.islice(raw, _PEEK) if not row.problem]
    return list(dict.fromkeys(name for fields in peeked for name in fields))


def _is_conversation(value: Any) -> bool:
    """Returns whether a value is a list of turns."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and any(key in first for key in _TURN_ROLES)


def _row(number: int, value: Any, text: str) -> RawRow:
    """The row of a value, which was decoded from a text."""
    if not is_utf8(text):
        return RawRow(number, {}, INVALID_UTF8)
    if _is_conversation(value):
        return RawRow(number, {MESSAGES: value})
    is_object = isinstance(value, dict)
    return RawRow(number, value if is_object else {}, "" if is_object else "not a JSON object")


class _Window:
    """JSON that is decoded value by value out of a window of its text, of which a line is next."""

    def __init__(self, stream: IO[str], name: str):
        self.name, self.line = name, 1
        self._stream, self._text, self._at = stream, stream.read(_WINDOW), 0

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._move(_SPACE.match(self._text, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self) -> str:
        """The same character, behind which to go on."""
        found = self.peek()
        self._move(self._at + len(found))
        return found

    def value(self) -> tuple[Any, str, Exception | None]:
        """The next value and its text; or, to be looked for in it, why it cannot be decoded."""
        self.peek()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if _is_cut(error, len(self._text)) and self._more():
                    continue
                if isinstance(error, json.JSONDecodeError):
                    error.pos -= self._at
                return None, "", error
            # A number may go on where the window ends.
            if type(value) in (int, float) and end > len(self._text) - _TOKEN and self._more():
                continue
            text = self._text[self._at : end]
            self._move(end)
            return value, text, None

    def begins_conversations(self) -> bool:
        """Returns whether lists of messages follow each other, rather than be one array."""
        with contextlib.suppress(ValueError, RecursionError):
            value, end = _decode(self._text, self._at)
            behind = _SPACE.match(self._text, end).end()  # type: ignore[union-attr]
            return _is_conversation(value) and self._text.startswith(("[", ","), behind)
        return False

    def ends_at(self, fault: json.JSONDecodeError) -> bool:
        """Returns whether the text is right up to its end, which is inside the next value."""
        behind = _SPACE.match(self._text, self._at + fault.pos).end()  # type: ignore[union-attr]
        return fault.msg.startswith("Unterminated string") or behind == len(self._text)

    def skip_line(self) -> tuple[str, bool]:
        """The rest of a line, and whether the text ends with it."""
        while (end := self._text.find("\n", self._at)) < 0 and self._more():
            pass
        rest = self._text[self._at : end] if end >= 0 else self._text[self._at :]
        self._move(self._at + len(rest))
        return rest, end < 0

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self) -> bool:
        left = len(self._text) - self._at
        if left > _LONGEST:
            raise _too_long(self.name)
        more = self._stream.read(max(_WINDOW, left))
        if more:
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)


def _is_cut(error: Exception, size: int) -> bool:
    """Returns whether JSON of that size may be right but for its missing end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= size - _TOKEN


def _too_long(name: str) -> ValueError:
    return ValueError(
        f"{name} has a row or a line of more than {_LONGEST:,} characters; write the file as JSON "
        "Lines, each object on a line of its own, or as Parquet"
    )


def _json(text: IO[str], file: SourceFile) -> Iterator[RawRow]:
    """One array of rows, or one object that holds them, or rows one after the other."""
    window = _Window(text, file.name)
    if window.peek() == "[" and not window.begins_conversations():
        yield from _array(window)
        return
    count, is_spread, broken = 0, False, None
    while window.peek():
        count, line = count + 1, window.line
        value, decoded, fault = window.value()
        is_spread |= "\n" in decoded
        number = count if is_spread else line
        if fault:
            broken = broken or (fault, number)
        if broken and is_spread:  # over several lines, any of which could be taken for a row
            raise unreadable(file.name, *broken)
        if fault:
            yield _undecoded(window, number, fault)
        elif count == 1 and isinstance(value, dict) and not window.peek():
            yield from _document(value, decoded, file)
        else:
            yield _row(number, value, decoded)
        if window.peek() == ",":
            window.take()


def _undecoded(window: _Window, number: int, fault: Exception) -> RawRow:
    """The bad row in a line, behind which the next one begins, unless the file ends in it."""
    is_cut = isinstance(fault, json.JSONDecodeError) and window.ends_at(fault)
    rest, at_end = window.skip_line()
    if is_cut or (at_end and not rest.rstrip().endswith("}")):
        raise unreadable(window.name, "the file ends inside it", number)
    if isinstance(fault, RecursionError):
        return RawRow(number, {}, TOO_DEEP)
    return RawRow(number, {}, "not JSON" if is_utf8(rest) else INVALID_UTF8)


def _document(value: dict[str, Any], text: str, file: SourceFile) -> Iterator[RawRow]:
    """The rows of the only object of a file: its one list of objects, or itself."""
    lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    is_spread, talks = "\n" in text, any(map(_is_conversation, value.values()))
    if len(lists) == 1 and not talks and (is_spread or file.is_document):
        for number, item in enumerate(lists[0], 1):
            yield _row(number, item, json.dumps(item, ensure_ascii=False))
    elif is_spread and not talks:
        raise ValueError(
            f"{file.name} is one JSON object with {'several lists' if lists else 'no list'} of "
            "objects; write an array of objects, or one object a line"
        )
    else:
        yield _row(1, value, text)


def _array(window: _Window) -> Iterator[RawRow]:
    """The values of a JSON array, behind which nothing follows."""
    sign, number = window.take(), 0
    if window.peek() == "]":
        sign = window.take()
    while sign != "]":
        number += 1
        value, decoded, fault = window.value()
        if fault:
            raise unreadable(window.name, fault, number)
        yield _row(number, value, decoded)
        sign = window.take()
        if sign not in (",", "]"):
            found = repr(sign) if sign else "the end of the file"
            raise unreadable(window.name, f"expected ',' or ']', got {found}", number)
    if found := window.peek():
        raise unreadable(window.name, f"{found!r} follows where its JSON ends", number)


def _csv(text: IO[str], name: str, names: Sequence[str]) -> Iterator[RawRow]:
    """CSV with a header unless names are given, in the quoting of RFC 4180."""
    lines = _lines(text, name)
    first = next(filter(str.strip, lines), "")
    if said := _SEPARATOR.fullmatch(first):  # where Excel writes down what parts the cells
        first = next(lines, "")
    delimiter = said[1] if said else "," if names else _delimiter(first)
    rows = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header, number, blank = list(names), 0, 0
    while True:
        # The limit of the csv module is the whole process's, and others have theirs.
        usual = csv.field_size_limit(_LONGEST_CELL)
        try:
            cells = next(rows)
            problem = ""
        except StopIteration:
            return
        except csv.Error as error:
            # Anything else is an open quote, which swallows the rows that follow.
            if "expected after" not in str(error):
                reason = f"{error}; close the quote that is open there"
                raise unreadable(name, reason, number + bool(header)) from None
            cells, problem = [], "not CSV"
        finally:
            csv.field_size_limit(usual)
        number += bool(header)
        is_blank = not any(cell and not cell.isspace() for cell in cells)
        blank = blank + 1 if is_blank else 0
        if blank > _MOST_BLANK:
            raise ValueError(f"{name} has more than {_MOST_BLANK:,} blank lines in a row")
        if problem:
            yield RawRow(number, {}, problem)
        elif is_blank:
            continue
        elif not header:
            header = cells
            _check_names(header, name)
        elif len(cells) != len(header):
            yield RawRow(number, {}, "another number of cells than the header")
        elif not all(map(is_utf8, cells)):
            yield RawRow(number, {}, INVALID_UTF8)
        else:
            yield RawRow(number, dict(zip(header, cells, strict=True)))


def _lines(text: IO[str], name: str) -> Iterator[str]:
    """The lines of a text, none of which is so long that it would fill the memory."""
    while line := text.readline(_LONGEST):
        if len(line) == _LONGEST and not line.endswith("\n"):
            raise _too_long(name)
        yield line


def _delimiter(header: str) -> str:
    """The sign that parts the header into most cells."""
    return max(_DELIMITERS, key=lambda sign: len(next(csv.reader([header], delimiter=sign))))


def _check_names(names: Sequence[str], file: str) -> None:
    """Raises ValueError if two columns have one name; those without a name cannot be asked for."""
    twice = [name for name, count in collections.Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(
            f"expected every column of {file} to have a name of its own, got "
            f"{', '.join(map(repr, twice))} twice or more; rename or remove them"
        )


def _table(file: SourceFile, columns: Collection[str] | None) -> Iterator[RawRow]:
    """The rows of a Parquet or Arrow file, a batch of them in memory at a time."""
    number = unpacked = 0
    size = file.path.stat().st_size
    with _opened_table(file) as table:
        names = _schema(table).names
        _check_names(names, file.name)
        wanted = [name for name in names if columns is None or name in columns]
        batches = _parquet if file.format == "parquet" else _arrow
        for batch in batches(table, wanted, file):
            # Categories count as the texts that they stand for.
            plain = [c.dictionary_decode() if hasattr(c, "indices") else c for c in batch.columns]
            unpacked += sum(column.nbytes for column in plain)
            check_size(unpacked, size, file.name)
            for fields in _fields(batch):
                number += 1
                yield RawRow(number, fields or {}, INVALID_UTF8 if fields is None else "")


def _opened_table(file: SourceFile) -> Any:
    """The file as pyarrow's reader of its format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(file.path, "rb") as stream:
        start = stream.read(64)
    check_format(start, file)
    if file.format == "parquet":
        return pq.ParquetFile(file.path, buffer_size=1 << 20, pre_buffer=False)
    open_arrow = pa.ipc.open_stream if start.startswith(ARROW_STREAM) else pa.ipc.open_file
    return open_arrow(pa.memory_map(str(file.path)))


def _schema(table: Any) -> Any:
    return getattr(table, "schema_arrow", table.schema)


def _parquet(table: Any, wanted: list[str], file: SourceFile) -> Iterator[Any]:
    """The batches of a Parquet file, which may not say to hold more than its bytes can."""
    size, found, batch = file.path.stat().st_size, table.metadata, _BATCH
    if found.num_rows > max(_ROWS_FREELY, size):
        raise ValueError(
            f"{file.name} says to have {found.num_rows:,} rows in {size:,} bytes, which rows of "
            "text do not fit into; write it again, or as JSON Lines"
        )
    for group in map(found.row_group, range(found.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            check_size(unpacked, max(packed, 1), file.name)
            if unpacked > max(_LONG_TEXT, _PACKED_WELL * packed):
                batch = 1
    yield from table.iter_batches(batch_size=batch, columns=wanted)


def _arrow(table: Any, wanted: list[str], file: SourceFile) -> Iterator[Any]:
    """The batches of an Arrow file or stream, which is mapped into memory, not read."""
    whole = table.read_all()
    whole.validate(full=True)  # offsets that point anywhere would end the process, not raise
    yield from whole.select(wanted).to_batches(max_chunksize=_BATCH)


def _fields(batch: Any) -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one that holds bytes which are not UTF-8."""
    try:
        rows = batch.to_pylist()
        return [_decoded(row) for row in rows] if "binary" in str(batch.schema) else rows
    except UnicodeDecodeError:  # of some row, and pyarrow does not say of which
        if batch.num_rows == 1:
            return [None]
        return [row for i in range(batch.num_rows) for row in _fields(batch.slice(i, 1))]


def _decoded(value: Any) -> Any:
    """The value with text for its bytes, at any depth."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value
