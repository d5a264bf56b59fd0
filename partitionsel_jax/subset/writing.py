"""The chosen rows as their files had them, and what is known of each."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from partitionsel_jax.data.sources.files import SourceFile, changed
from partitionsel_jax.data.sources.reading import column_names, read
from partitionsel_jax.file_errors import one_line
from partitionsel_jax.json_files import write_json

# What is added to a row.
KEY = "partitionsel"
# Forms of the chosen rows, and what they are called.
_NAMES = {"jsonl": "selected.jsonl", "parquet": "selected.parquet", "datasets": "selected"}
FORMS = tuple(_NAMES)
_ARROW = "data-00000-of-00001.arrow"


@dataclasses.dataclass(frozen=True)
class Pick:
    """A chosen row: why, and where it was read.

    Attributes:
      weight: f32, >= 0, its part in matching the anchors' gradient; 1 for utilities without.
      rank: from 1, in the order picked.
      gain: what it added when it was picked; None of random rows.
      file, row: where it was read; rows are numbered from 1, in JSON Lines they are lines.
    """

    weight: float
    rank: int
    gain: float | None
    file: str
    row: int


def check_free(files: tuple[SourceFile, ...]) -> None:
    """Raises ValueError if rows have the key that is added to them."""
    for file in files:
        if KEY in column_names(file):
            raise ValueError(
                f"{file.name} has a column {KEY!r}, under which a chosen row says why it was "
                "chosen: rename it"
            )


def rows_at(
    files: tuple[SourceFile, ...], places: Collection[tuple[int, int]]
) -> Iterator[tuple[int, int, Mapping[str, Any]]]:
    """Reads rows again, in the order of their files: place of the file, number, all fields.

    Args:
      files: as they were when the rows were first read.
      places: (place of the file, number of the row).

    Raises:
      ValueError: a row is not there.
    """
    wanted, found = {place for place, _ in places}, 0
    for place, file in enumerate(files):
        if place not in wanted:
            continue
        for number, fields, _ in read(file):
            if (place, number) in places:
                found += 1
                yield place, number, fields
    if found < len(places):
        raise changed()


def chosen_rows(
    files: tuple[SourceFile, ...], picks: Mapping[tuple[int, int], Pick]
) -> Iterator[dict[str, Any]]:
    """Reads the chosen rows again, in the order of their files, each with its `Pick` under KEY.

    Args:
      files: as they were when the rows were chosen.
      picks: (place of the file, number of the row) -> what is known of it.

    Raises:
      ValueError: a chosen row is not there, or has the key itself.
    """
    for place, number, fields in rows_at(files, picks):
        if KEY in fields:
            raise ValueError(
                f"{files[place].name} row {number} has the key {KEY!r} itself: rename it there"
            )
        yield {**fields, KEY: dataclasses.asdict(picks[place, number])}


def write(folder: Path, rows: Iterator[dict[str, Any]], form: str) -> Path:
    """Writes the chosen rows in one move, in place of earlier ones of any form.

    Args:
      folder: where `selected.jsonl`, `selected.parquet` or the directory `selected` goes.
      rows: in order.
      form: one of `FORMS`: JSON Lines, Parquet, or a directory that `datasets.load_from_disk`
        reads.

    Returns:
      The file or directory.

    Raises:
      ValueError: rows that have no common columns, of a form that needs them.
    """
    path = folder / _NAMES[form]
    half = folder / f".{path.name}.{os.getpid()}"
    try:
        if form == "jsonl":
            _write_lines(half, rows)
        else:
            _write_table(half, rows, form)
        for name in _NAMES.values():
            _remove(folder / name)
        half.replace(path)
    finally:
        _remove(half)
    return path


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Writes rows as JSON Lines, in one move."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_lines(half, rows)
        half.replace(path)
    finally:
        _remove(half)


def _write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _write_table(path: Path, rows: Iterator[dict[str, Any]], form: str) -> None:
    """A Parquet file, or a directory of the datasets library, from one table in memory."""
    try:
        table = pa.Table.from_pylist(list(rows))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(
            f"the chosen rows cannot be written as {form}, since a column holds values of several "
            f"kinds ({one_line(error)}): write them as jsonl"
        ) from None
    if form == "parquet":
        parquet.write_table(table, path)
        return
    path.mkdir()
    with pa.ipc.new_stream(path / _ARROW, table.schema) as stream:
        stream.write_table(table)
    digest = hashlib.sha256((path / _ARROW).read_bytes()).hexdigest()[:16]
    state: dict[str, Any] = {
        "_data_files": [{"filename": _ARROW}],
        "_fingerprint": digest,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    # Without features, which are then those of the table.
    write_json(path / "state.json", state)
    write_json(path / "dataset_info.json", {"description": "Rows chosen by partitionsel_jax."})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def picks_of(
    indices: np.ndarray,
    weights: np.ndarray,
    gains: np.ndarray,
    files: np.ndarray,
    numbers: np.ndarray,
    names: tuple[str, ...],
) -> dict[tuple[int, int], Pick]:
    """(place of the file, number of the row) -> what is known of a chosen row.

    Args:
      indices: i64[K], of the chosen rows, in the order picked.
      weights, gains: f32[K].
      files, numbers: of all rows, see `Table`.
      names: of the files.
    """
    found = {}
    for rank, (index, weight, gain) in enumerate(
        zip(indices.tolist(), weights.tolist(), gains.tolist(), strict=True), 1
    ):
        place, number = int(files[index]), int(numbers[index])
        known = gain if math.isfinite(gain) else None
        found[place, number] = Pick(weight, rank, known, names[place], number)
    return found
