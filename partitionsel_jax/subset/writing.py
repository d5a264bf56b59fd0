"""The chosen rows as their files had them, and what is known of each."""

import dataclasses
import json
import math
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partitionsel_jax.data.sources.files import SourceFile, changed
from partitionsel_jax.data.sources.reading import column_names, read

# What is added to a row.
KEY = "partitionsel"


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


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Writes rows as JSON Lines, in one move."""
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(half, "w", encoding="utf-8") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


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
