"""The chosen rows beside those that other ways would have chosen, in numbers and in a few rows."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from partitionsel_jax import offline
from partitionsel_jax.data.streams import generator
from partitionsel_jax.offline.passes import scaled
from partitionsel_jax.subset import writing
from partitionsel_jax.subset.table import Files, Table

# Rows at either end that are shown, and characters of a text.
_SHOWN, _LONGEST = 5, 600
# Rows that are read, or compared with all picks, at a time.
_CHUNK = 1024


class Described(NamedTuple):
    """Numbers of a choice, as JSON values.

    Attributes:
      lengths: "candidates" and "chosen" -> median, 95th percentile and largest tokens of a row.
      overlap: "alignment" and "random" -> the share of the chosen rows that these choose too, with
        the same picks per domain.
      redundancy: "chosen", "alignment" and "random" -> mean cosine of a row with the nearest other.
      shown: "first" and "opposed" -> the first rows that were picked, and those whose gradients
        point most against the anchors'.
    """

    lengths: dict[str, list[int]]
    overlap: dict[str, float]
    redundancy: dict[str, float | None]
    shown: dict[str, list[dict[str, Any]]]


def describe(
    picked: offline.OfflineSelection,
    features: offline.Rows,
    anchors: offline.Rows,
    table: Table,
    rows: np.ndarray,
    files: Files,
    seed: int,
) -> Described:
    """Compares a choice with the rows of largest alignment, and with random ones.

    Args:
      picked: the choice; its indices are places in `rows`.
      features: float[N, M], of the candidates.
      anchors: float[A, M].
      table: of all rows.
      rows: i64[N], which of the table's are candidates.
      files: where they lie.
      seed: of the random rows.
    """
    scores_N = alignments(features, anchors)
    domains = table.domains[rows]
    ranked = np.argsort(-scores_N, kind="stable")
    ranked = ranked[np.isfinite(scores_N[ranked])]
    drawn = generator(seed, "random rows to compare with").permutation(len(rows))
    limits = picked.picks_per_domain
    chosen = {
        "chosen": picked.indices,
        "alignment": _first(ranked, domains, limits),
        "random": _first(drawn, domains, limits),
    }
    others = {name: found for name, found in chosen.items() if name != "chosen"}
    lengths = {"candidates": table.lengths[rows], "chosen": table.lengths[rows[picked.indices]]}
    return Described(
        {name: _quantiles(tokens) for name, tokens in lengths.items()},
        {name: float(np.isin(picked.indices, found).mean()) for name, found in others.items()},
        {name: _redundancy(features, np.sort(found)) for name, found in chosen.items()},
        {
            "first": _texts(files, table, rows[picked.indices[:_SHOWN]], scores_N, rows),
            "opposed": _texts(files, table, rows[ranked[::-1][:_SHOWN]], scores_N, rows),
        },
    )


def alignments(features: offline.Rows, anchors: offline.Rows) -> np.ndarray:
    """Mean cosine of every row with the anchors, f32[N]; nan for a row that is not finite."""
    total, count = np.zeros(features.shape[1]), 0
    for block in _blocks(anchors):
        total += block.sum(axis=0)
        count += len(block)
    parts = [block @ (total / max(count, 1)) for block in _blocks(features, keep=True)]
    return np.concatenate(parts).astype(np.float32)


def _blocks(matrix: offline.Rows, *, keep: bool = False) -> Iterator[np.ndarray]:
    """The rows at unit norm, a few at a time; those that are not finite are left out, or kept."""
    for start in range(0, matrix.shape[0], _CHUNK):
        block = np.asarray(matrix[start : min(start + _CHUNK, matrix.shape[0])], np.float32)
        with np.errstate(invalid="ignore"):
            unit = scaled(block, unit=True)
        yield unit if keep else unit[np.isfinite(unit).all(axis=1)]


def _first(order: np.ndarray, domains: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The first rows of an order, so many of each domain."""
    kept = [order[domains[order] == domain][:most] for domain, most in enumerate(limits)]
    return np.concatenate(kept)


def _redundancy(features: offline.Rows, indices: np.ndarray) -> float | None:
    """Mean cosine of some rows, whose places ascend, with the nearest other; None of one row."""
    if len(indices) < 2:
        return None
    read = [np.asarray(features[int(i) : int(i) + 1], np.float32) for i in indices]
    unit = scaled(np.concatenate(read), unit=True)
    nearest = []
    for start in range(0, len(unit), _CHUNK):
        cosines = unit[start : start + _CHUNK] @ unit.T
        here = np.arange(len(cosines))
        cosines[here, start + here] = -np.inf
        nearest.append(cosines.max(axis=1))
    return float(np.nanmean(np.concatenate(nearest)))


def _quantiles(tokens: np.ndarray) -> list[int]:
    return [int(np.quantile(tokens, share)) for share in (0.5, 0.95, 1.0)]


def _texts(
    files: Files, table: Table, shown: np.ndarray, scores_N: np.ndarray, rows: np.ndarray
) -> list[dict[str, Any]]:
    """The texts of a few of the table's rows, in the order given."""
    places = {
        (int(table.files[row]), int(table.numbers[row])): order for order, row in enumerate(shown)
    }
    found: dict[int, dict[str, Any]] = {}
    for place, number, fields in writing.rows_at(files.files, places):
        order = places[place, number]
        row = files.schema.parse(fields, files.files[place].stem)
        score = float(scores_N[np.searchsorted(rows, shown[order])])
        found[order] = {
            "place": f"{files.files[place].name} row {number}",
            "domain": row.domain,
            "alignment": score,
            "asked": _cut(row.question),
            "response": _cut(row.response),
        }
    return [found[order] for order in range(len(shown))]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
