"""Rows of the small files that benchmarks are published in, each with its number for errors."""

import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
      path: the file.
      number: the row's, from 1; 0 for a file that is a single row.
      fields: name -> value.
    """

    path: Path
    number: int
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def error(self, problem: str) -> ValueError:
        """Makes the error that says what is wrong with this row."""
        where = f"{self.path}, row {self.number}" if self.number else str(self.path)
        return ValueError(f"{where}: {problem}; compare it with the published file")

    def text(self, *names: str, default: str | None = None) -> str:
        """Gives the first of the named fields that is there and not null or blank, as text.

        Args:
          *names: in the order in which they are looked for.
          default: what to give where there is none.

        Raises:
          ValueError: no such field, and no default; or a value that is no text, finite number or
            list.
        """
        for name in names:
            try:
                value = spelt(self.fields.get(name))
            except (TypeError, ValueError) as error:
                raise self.error(f"the field {name!r}: {error}") from None
            if value:
                return value
        if default is not None:
            return default
        raise self.error(f"expected a field {' or '.join(map(repr, names))} with text in it")


def spelt(value: Any) -> str:
    """Writes a published value as text: numbers as JSON has them, lists by commas; "" for null.

    Raises:
      TypeError: a mapping, which has no one spelling.
      ValueError: a number that is not finite.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list | tuple):
        return ", ".join(spelt(item) for item in value)
    if isinstance(value, bool | int | float):
        if not math.isfinite(value):
            raise ValueError(f"expected a finite number, got {value}")
        return json.dumps(value)
    raise TypeError(f"a {type(value).__name__} is neither text, number nor list")


def find(directory: Path, patterns: Sequence[str], what: str) -> list[Path]:
    """Finds the files of the first pattern that any file matches, sorted.

    Args:
      directory: where to look.
      patterns: relative to it, with wildcards as `Path.glob` takes them.
      what: what errors say is looked for.

    Raises:
      ValueError: there is no file of any of the patterns.
    """
    for pattern in patterns:
        if found := sorted(path for path in directory.glob(pattern) if path.is_file()):
            return found
    raise ValueError(
        f"no {what} in {directory}: expected {' or '.join(patterns)} there, as published; put the "
        "files in that folder, or name the folder above it as config.directory"
    )


def read_rows(path: Path, split: str = "") -> list[Row]:
    """Reads the rows of a JSON array, of JSON lines, or of a Parquet file (by its suffix).

    Args:
      path: the file.
      split: not looked at; readers of files that hold several need it.

    Raises:
      ValueError: a damaged file, or a row that is no object.
    """
    if path.suffix == ".parquet":
        return [Row(path, number, fields) for number, fields in enumerate(_parquet(path), 1)]
    text = read_text(path)
    if text.lstrip().startswith("["):
        values = list(enumerate(_json(text, Row(path, 0)), 1))
    else:
        lines = enumerate(text.split("\n"), 1)
        values = [(n, _json(line, Row(path, n))) for n, line in lines if line.strip()]
    for number, value in values:
        if not isinstance(value, dict):
            raise Row(path, number).error(f"expected an object, got {str(value)[:40]!r}")
    return [Row(path, number, value) for number, value in values]


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Reads the rows of a CSV file without a header.

    Raises:
      ValueError: a damaged file, or a row with another number of columns.
    """
    rows: list[Row] = []
    # strict: a quotation that the end of the file cuts off is an error, which pandas lets pass.
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for number, values in enumerate(reader, 1):
            if len(values) != len(columns):
                raise Row(path, number).error(
                    f"expected the {len(columns)} columns {', '.join(columns)}, got {len(values)}"
                )
            rows.append(Row(path, number, dict(zip(columns, values, strict=True))))
    except csv.Error as error:
        raise Row(path, len(rows) + 1).error(f"not CSV ({error})") from None
    return rows


def read_text(path: Path, lines: int | None = None) -> str:
    """Reads a file, or its first lines, without the mark that some editors put before the text.

    Raises:
      ValueError: invalid UTF-8, by line.
    """
    with path.open("rb") as file:
        content = file.read() if lines is None else b"".join(itertools.islice(file, lines))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: invalid UTF-8 ({error.reason}); save the file as UTF-8, or "
            "download it again"
        ) from None


def _json(text: str, row: Row) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise row.error(f"not valid JSON, or cut off ({error})") from None


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path} is cut off, or no Parquet file ({reason}); download it again"
        ) from None
