"""Streaming readers: the rows of a JSON, JSON Lines, CSV or Parquet file, one after the other."""

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Generator, Iterator, Mapping
from typing import IO, Any, NamedTuple

from partitionsel_jax.data.sources.files import SourceFile, opened, reading_errors

INVALID_UTF8 = "invalid UTF-8"
_WINDOW = 1 << 20
_BATCH = 1024
_GAP = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")
# The longest token that JSON's errors point to the beginning of when the text ends inside it.
_TOKEN = 16


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
      ValueError: the file is damaged or ends inside a row.
      OSError: the file cannot be read.
    """
    if file.format == "parquet":
        yield from _parquet(file)
        return
    with reading_errors(file.name), opened(file) as stream:
        # Every stream of `opened` is buffered and can be looked into.
        start = stream.peek(_WINDOW)  # type: ignore[attr-defined]
        is_array = start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        if file.format == "json" and not is_array:
            yield from _lines(stream)
            return
        with io.TextIOWrapper(
            stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as text:
            yield from (_array if file.format == "json" else _csv)(text, file.name)


def _lines(stream: IO[bytes]) -> Iterator[RawRow]:
    """JSON Lines; blank lines are passed over."""
    for number, line in enumerate(stream, 1):
        if line.isspace():
            continue
        try:
            value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError:
            yield RawRow(number, {}, INVALID_UTF8)
        except (ValueError, RecursionError):
            yield RawRow(number, {}, "not JSON")
        else:
            yield _object(number, value)


def _array(text: IO[str], name: str) -> Iterator[RawRow]:
    """A JSON array, decoded object by object out of a window of its text."""
    decode = json.JSONDecoder().raw_decode
    window = text.read(_WINDOW)
    at, number = window.index("[") + 1, 1
    while True:
        at = _GAP.match(window, at).end()  # type: ignore[union-attr]
        if window.startswith("]", at):
            return
        try:
            value, end = decode(window, at)
        except (ValueError, RecursionError) as error:
            more = text.read(max(_WINDOW, len(window))) if _is_cut(error, len(window)) else ""
            if not more:
                raise ValueError(
                    f"{name} is damaged or cut short at row {number} ({error}); fetch or write it "
                    "again"
                ) from None
            window, at = window[at:] + more, 0
            continue
        yield (
            _object(number, value) if _is_utf8(window[at:end]) else RawRow(number, {}, INVALID_UTF8)
        )
        at, number = end, number + 1


def _is_cut(error: Exception, size: int) -> bool:
    """Whether JSON of that size may be right but for its missing end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= size - _TOKEN


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
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
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
        elif len(cells) != len(header):
            yield RawRow(number, {}, "another number of cells than the header")
        elif not all(map(_is_utf8, cells)):
            yield RawRow(number, {}, INVALID_UTF8)
        else:
            yield RawRow(number, dict(zip(header, cells, strict=True)))


def _parquet(file: SourceFile) -> Iterator[RawRow]:
    """Parquet, batch by batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with (
        reading_errors(file.name, (pa.ArrowException, OSError)),
        pq.ParquetFile(file.path, buffer_size=_WINDOW, pre_buffer=False) as parquet,
    ):
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
