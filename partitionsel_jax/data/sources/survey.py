"""A source of files as it is, whether or not a corpus can be made of it."""

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence

from partitionsel_jax.data.sources.downloading import locate
from partitionsel_jax.data.sources.files import source_files
from partitionsel_jax.data.sources.readers import column_names
from partitionsel_jax.data.sources.scanning import Tally, good_rows, spelt
from partitionsel_jax.data.sources.schemas import Columns, Row, schema_of

_SHOWN = 2
# Of so many files the columns are told.
_FILES = 20


@dataclasses.dataclass(frozen=True)
class Survey:
    """What was read of a source.

    Attributes:
      domains: name -> good rows.
      columns: file -> its columns.
      tally: what was read, and what of it is no row.
      shown: place and row of the first ones of every domain.
      stopped: what ended the reading before the end; else empty.
    """

    domains: Mapping[str, int]
    columns: Mapping[str, Sequence[str]]
    tally: Tally
    shown: Sequence[tuple[str, Row]]
    stopped: str = ""


def survey(kind: str, path: str | os.PathLike[str], columns: Columns) -> Survey:
    """Reads a source and counts what is in it; bad rows and damaged files do not end it.

    Args:
      kind, path, columns: see `prepare_files`.

    Raises:
      ValueError: there is nothing to read.
    """
    schema = schema_of(kind, columns)
    files = source_files(locate(path, schema.repository, schema.patterns), schema.leave_out)
    names: dict[str, Sequence[str]] = {}
    counts: collections.Counter[str] = collections.Counter()
    shown: list[tuple[str, Row]] = []
    tally, stopped = Tally(), ""
    try:
        for file in files[:_FILES]:
            names[file.name] = column_names(file)
        for row in good_rows(files, schema, (), tally):
            counts[row.domain] += 1
            if counts[row.domain] <= _SHOWN:
                shown.append((spelt(tally.place), row))
    except (ValueError, OSError) as error:
        stopped = str(error)
    return Survey(dict(sorted(counts.items())), names, tally, shown, stopped)
