"""Rows of the small files that benchmarks are published in, each with its number for errors."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partitionsel_jax.data.sources.files import SourceFile
from partitionsel_jax.data.sources.reading import read
from partitionsel_jax.file_errors import reading


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
    """Reads the rows of JSON or of a Parquet file (by its suffix).

    Args:
      path: the file.
      split: not looked at; readers of files that hold several need it.

    Raises:
      ValueError: a damaged file, or a row that is no object.
    """
    return read_table(path, ())


def read_table(path: Path, columns: Sequence[str]) -> list[Row]:
    """Reads the rows of a file; of CSV without a header, whose columns are named.

    Raises:
      ValueError: a damaged file, or a row with another number of columns.
    """
    rows = []
    for number, fields, problem in read(SourceFile(path, str(path)), names=columns):
        rows.append(Row(path, number, fields))
        if problem:
            raise rows[-1].error(problem)
    return rows


def read_text(path: Path, lines: int | None = None) -> str:
    """Reads a file in UTF-8, or its first lines, without the mark that may stand before the text.

    Raises:
      ValueError: it cannot be read.
    """
    with reading(path), path.open(encoding="utf-8-sig") as file:
        return "".join(itertools.islice(file, lines))
