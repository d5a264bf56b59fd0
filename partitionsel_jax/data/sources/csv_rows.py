"""Rows of CSV, whose cells are parted by commas, semicolons or tabs."""

import contextlib
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import IO

from partitionsel_jax.data.sources.raw_rows import (
    INVALID_UTF8,
    RawRow,
    check_blank,
    check_names,
    is_utf8,
)

_DELIMITERS = ",;\t"
# Lines that are looked at for what parts their cells.
_SAMPLE = 40
_SEPARATOR = re.compile(r"sep=(.)[\r\n]*")
# Characters of a cell, and of a line. An open quote makes the rest of the file one cell, and a file
# need not have line ends: they end here.
_LONGEST_CELL, _LONGEST_LINE = 1 << 24, 1 << 26


def csv_rows(text: IO[str], name: str) -> Iterator[RawRow]:
    """CSV with a header, in the quoting of RFC 4180; blank rows are passed over."""
    rows = _whole_lines(text, name)
    sample = list(itertools.islice(rows, _SAMPLE))
    said = _SEPARATOR.fullmatch(sample[0]) if sample else None
    if said:  # how Excel writes down what parts the cells
        sample = sample[1:]
    delimiter = said[1] if said else _delimiter(sample)
    lines = csv.reader(itertools.chain(sample, rows), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = blank = 0
    while True:
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
            number += 1
            continue
        is_blank = not any(cell and not cell.isspace() for cell in cells)
        blank = blank + 1 if is_blank else 0
        check_blank(blank, name)
        if not header:
            if is_blank:
                continue
            header = cells
            check_names(header, name)
        elif is_blank:
            pass
        elif len(cells) != len(header):
            yield RawRow(number, {}, "another number of cells than the header")
        elif not all(map(is_utf8, cells)):
            yield RawRow(number, {}, INVALID_UTF8)
        else:
            yield RawRow(number, dict(zip(header, cells, strict=True)))
        number += 1


def _delimiter(sample: Sequence[str]) -> str:
    """What parts the cells: of most columns in the header, and as many in the rows below it."""

    def parted(delimiter: str) -> tuple[int, int]:
        rows: list[list[str]] = []
        # The last row of the sample may go on behind it.
        with contextlib.suppress(csv.Error):
            rows.extend(r for r in csv.reader(sample, delimiter=delimiter, strict=True) if any(r))
        columns = len(rows[0]) if rows else 0
        return (sum(len(row) == columns for row in rows) if columns > 1 else 0), columns

    counts = {delimiter: parted(delimiter) for delimiter in _DELIMITERS}
    return max(_DELIMITERS, key=counts.__getitem__)


def _next_cells(lines: Iterator[list[str]]) -> list[str]:
    """The next row; the csv module's limit, which is the process's, is as it was afterwards."""
    usual = csv.field_size_limit(_LONGEST_CELL)
    try:
        return next(lines)
    finally:
        csv.field_size_limit(usual)


def _whole_lines(text: IO[str], name: str) -> Iterator[str]:
    """The lines of a text, none of which is so long that it would fill the memory."""
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(
                f"{name} has a line of more than {_LONGEST_LINE:,} characters; write the file as "
                "JSON Lines or Parquet"
            )
        yield line
