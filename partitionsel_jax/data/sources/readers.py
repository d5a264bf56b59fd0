"""Streaming readers: the rows of a JSON, JSON Lines, CSV or Parquet file, one after the other."""

import codecs
import collections
import csv
import io
import itertools
import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from partitionsel_jax.data.sources.files import SourceFile, check_text, opened, reading_errors

INVALID_UTF8 = "invalid UTF-8"
_WINDOW = 1 << 20
_BATCH = 1024
_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode
# The longest token that JSON's errors point to the beginning of when the text ends inside it.
_TOKEN = 16
# Characters of a CSV cell. An open quote makes the rest of the file one cell: it ends here.
_LONGEST_CELL = 1 << 24
# What holds the Arrow types that a Parquet file was written with.
_ARROW_SCHEMA = b"ARROW:schema"


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


def read(file: SourceFile) -> Generator[RawRow, None, None]:
    """The rows of a file in order; only a small part of it is in memory at a time.

    Text is read as UTF-8. A row that is not is given with its problem, as are lines that are no
    JSON object, and CSV lines of another number of cells than the header's.

    Raises:
      ValueError: the file is damaged, ends inside a row, is of another format than its name says,
        or has two columns of one name.
      OSError: the file cannot be read.
    """
    if file.format == "parquet":
        yield from _parquet(file)
        return
    with reading_errors(file.name), opened(file) as stream:
        start = _peek(stream)
        check_text(start, file.name)
        is_array = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        if file.format == "json" and not is_array:
            yield from _lines(stream, file)
            return
        with _text(stream) as text:
            if file.format == "json":
                yield from _array(_Window(text, file.name))
            else:
                yield from _csv(text, file.name)


def _peek(stream: IO[bytes]) -> bytes:
    """What comes next; every stream of `opened` is buffered and can be looked into."""
    return stream.peek(_WINDOW)  # type: ignore[attr-defined]


def _text(stream: IO[bytes]) -> IO[str]:
    """The text of bytes, with surrogates for those that are not UTF-8."""
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _lines(stream: IO[bytes], file: SourceFile) -> Iterator[RawRow]:
    """JSON Lines, or one object that holds a list of the rows; blank lines are passed over."""
    begun = False
    for number, line in enumerate(stream, 1):
        if line.isspace():
            continue
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not begun and file.is_document and _is_cut(error, len(text.rstrip()), 1):
                with _text(stream) as rest:
                    yield from _document(_Window(rest, file.name, text))
                return
            if not line.endswith(b"\n"):
                raise _broken(file.name, number, "the file ends inside it") from None
            yield RawRow(number, {}, "not JSON" if _is_utf8(text) else INVALID_UTF8)
        else:
            is_alone = not begun and file.is_document and _is_utf8(text)
            if is_alone and (rows := _only_list(value)) and not _peek(stream).strip():
                yield from itertools.starmap(_object, enumerate(rows, 1))
                return
            yield _object(number, value) if _is_utf8(text) else RawRow(number, {}, INVALID_UTF8)
        begun = True


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
                if not (_is_cut(error, len(self._text)) and self._more()):
                    raise _broken(self._name, number, str(error)) from None
                continue
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
        yield _object(number, value) if _is_utf8(text) else RawRow(number, {}, INVALID_UTF8)
        more = window.skip(",]", number) == ","
    return number


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
    is_rows = len(lists) == 1 and lists[0][0].keys().isdisjoint(("role", "from"))
    return lists[0] if is_rows else None


def _broken(name: str, number: int, reason: str) -> ValueError:
    """What to say of a file that cannot be read on."""
    return ValueError(
        f"{name} is damaged or cut short at row {number} ({reason}); fetch or write it again"
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
    return RawRow(number, {}, "not a JSON object")


def _is_utf8(text: str) -> bool:
    """Whether text that was decoded with surrogates for its invalid bytes has none."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _csv(text: IO[str], name: str) -> Iterator[RawRow]:
    """CSV with a header, in the quoting of RFC 4180."""
    lines = csv.reader(text, strict=True)
    header: list[str] = []
    for number in itertools.count():
        try:
            cells = _next_cells(lines)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):
                raise ValueError(
                    f"{name} has a cell of more than {_LONGEST_CELL:,} characters at row {number}; "
                    "close the quote that is open there, or write the file as JSON Lines or Parquet"
                ) from None
            # Anything else is an open quote, which swallows the rows that follow.
            if "expected after" not in str(error):
                raise ValueError(
                    f"{name} is damaged or cut short at row {number} ({error}); close the quote "
                    "that is open there, or write the file again"
                ) from None
            yield RawRow(number, {}, "not CSV")
            continue
        if number == 0:
            header = cells
            _check_names(header, name)
        elif len(cells) != len(header):
            yield RawRow(number, {}, "another number of cells than the header")
        elif not all(map(_is_utf8, cells)):
            yield RawRow(number, {}, INVALID_UTF8)
        else:
            yield RawRow(number, dict(zip(header, cells, strict=True)))


def _check_names(names: Sequence[str], file: str) -> None:
    """Raises ValueError if two columns have one name; those without a name cannot be asked for."""
    twice = [name for name, count in collections.Counter(names).items() if name and count > 1]
    if twice:
        raise ValueError(
            f"expected every column of {file} to have a name of its own, got "
            f"{', '.join(map(repr, twice))} twice or more; rename or remove them"
        )


def _next_cells(lines: Iterator[list[str]]) -> list[str]:
    """The next row; the csv module's limit, which is the process's, is as it was afterwards."""
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        return next(lines)
    finally:
        csv.field_size_limit(usual)


def _parquet(file: SourceFile) -> Iterator[RawRow]:
    """Parquet, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with (
        reading_errors(file.name, (pa.ArrowException, OSError)),
        pq.ParquetFile(
            file.path,
            metadata=_plain_metadata(file.path),
            buffer_size=_WINDOW,
            pre_buffer=False,
        ) as parquet,
    ):
        _check_names(parquet.schema_arrow.names, file.name)
        for batch in parquet.iter_batches(batch_size=_BATCH):
            # Parquet does not promise that its text is UTF-8.
            columns = [
                column.cast(_bytes_type(column.type)).to_pylist() for column in batch.columns
            ]
            for cells in zip(*columns, strict=True):
                number += 1
                try:
                    values = [_decoded(cell) for cell in cells]
                except UnicodeDecodeError:
                    yield RawRow(number, {}, INVALID_UTF8)
                else:
                    yield RawRow(number, dict(zip(batch.schema.names, values, strict=True)))


def _plain_metadata(path: Path) -> Any:
    """The metadata of a Parquet file without the Arrow types it was written with.

    Of those, dictionaries of text are refused as a whole where one entry is not UTF-8. None where
    the file does not end as a Parquet file does, which its reader knows how to say.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(size - 8, 0))
        end = stream.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1" or length + 12 > size:
            return None
        stream.seek(size - 8 - length)
        footer = stream.read(length).replace(_ARROW_SCHEMA, _ARROW_SCHEMA.lower())
    return pq.read_metadata(pa.BufferReader(b"PAR1" + footer + end))


def _bytes_type(kind: Any) -> Any:
    """The Arrow type with binary for string, at any depth."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_bytes_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_bytes_type(field.type)) for field in kind])
    return kind


def _decoded(value: Any) -> Any:
    """The value with text for its bytes, at any depth."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return value
