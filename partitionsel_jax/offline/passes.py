"""Passes over features that do not fit in memory: chunks of rows, shared out over the devices.

Every pass reads the rows once, in order. The host holds a chunk or two of them, a few numbers per
row, and the rows that a pass was asked to bring back.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

# Bytes of float32 rows that are read and put on the devices at a time.
CHUNK_BYTES = 16 * 2**20
# `order` of a row that is neither picked nor drafted.
UNDRAFTED = np.int32(np.iinfo(np.int32).max)


class Rows(Protocol):
    """Whatever can be sliced by rows: a NumPy array, a memory map, an HDF5 data set."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """Features to pass over.

    Attributes:
      features: float[N, M].
      unit: whether rows are scaled to unit norm; zero rows stay zero.
      chunk_rows: R, rows read at a time; a multiple of the number of devices.
      mesh: the devices, along one axis, "rows".
    """

    features: Rows
    unit: bool
    chunk_rows: int
    mesh: Mesh

    @classmethod
    def create(
        cls,
        features: Rows,
        *,
        unit: bool,
        chunk_rows: int | None = None,
        devices: tuple[jax.Device, ...] | None = None,
    ) -> "Source":
        """Chunks of `chunk_rows`, or of `CHUNK_BYTES`, over `devices`, or over all there are."""
        devices = tuple(jax.devices() if devices is None else devices)
        rows, dim = features.shape
        chunk_rows = chunk_rows or max(1, CHUNK_BYTES // (4 * dim))
        chunk_rows = len(devices) * math.ceil(min(chunk_rows, rows) / len(devices))
        mesh = jax.make_mesh(
            (len(devices),), ("rows",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices
        )
        return cls(features, unit, chunk_rows, mesh)


class Survey(NamedTuple):
    """Results of the first pass.

    Attributes:
      norms: f32[N]; of the rows as they are stored; nan where an entry is not finite.
      scores: f32[N]; inner products of the scaled rows with a direction; -inf where not finite.
    """

    norms: np.ndarray
    scores: np.ndarray


class Queries(NamedTuple):
    """Q questions for one pass: which rows have the largest inner products with a direction?

    Attributes:
      directions: f32[Q, M].
      open: bool[Q, P]; the domains that a query is about.
      steps: i32[Q]; rows whose `order` is below are left out.
    """

    directions: np.ndarray
    open: np.ndarray
    steps: np.ndarray


class Answers(NamedTuple):
    """The best L rows for each of Q queries, and their features.

    Attributes:
      ids: i64[Q, L]; best first; -1 where there were fewer.
      row_ids: i64[U], ascending; all the rows named in `ids`, and those wanted besides.
      rows: f32[U, M]; their features, scaled.
    """

    ids: np.ndarray
    row_ids: np.ndarray
    rows: np.ndarray

    def rows_of(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """The ids i64[L'] and features f32[L', M] that answer one query."""
        ids = self.ids[query][self.ids[query] >= 0]
        return ids, self.rows[np.searchsorted(self.row_ids, ids)]


def survey(source: Source, direction_M: np.ndarray) -> Survey:
    """The first pass: which rows are finite, their norms, and how they lie to one direction."""
    norms_N = np.empty(source.features.shape[0], np.float32)
    scores_N = np.empty_like(norms_N)
    program = functools.partial(_survey, unit=source.unit)
    for rows, _, (norms, scores) in _sweep(source, program, (), (direction_M,)):
        norms_N[rows], scores_N[rows] = norms, scores
    return Survey(norms_N, scores_N)


def scales(source: Source, norms_N: np.ndarray) -> np.ndarray:
    """Divisors of all rows, f32[N]; nan marks rows that are left out."""
    scale_N = norms_N if source.unit else np.ones_like(norms_N)
    return np.where(np.isnan(norms_N), np.float32(np.nan), np.where(norms_N > 0.0, scale_N, 1.0))


def scores(
    source: Source, scale_N: np.ndarray, directions_GxM: np.ndarray, group_N: np.ndarray
) -> np.ndarray:
    """Every row's inner product with its own group's direction, f32[N]; -inf where left out."""
    scores_N = np.empty_like(scale_N)
    for rows, _, (score,) in _sweep(source, _scores, (scale_N, group_N), (directions_GxM,)):
        scores_N[rows] = score
    return scores_N


def best(
    source: Source,
    scale_N: np.ndarray,
    domain_N: np.ndarray,
    order_N: np.ndarray,
    queries: Queries,
    count: int,
    wanted: np.ndarray,
) -> Answers:
    """The best `count` rows for every query; equal ones by index.

    Args:
      source: the features.
      scale_N: f32[N], from `scales`.
      domain_N: i32[N] in [0, P).
      order_N: i32[N]; -1 for rows that are out of the question, the step at which a row was
        drafted, or `UNDRAFTED`.
      queries: Q of them.
      count: L >= 1.
      wanted: i64[W], ascending; rows to bring back besides.
    """
    query_count, dim = queries.directions.shape
    values = np.full((query_count, 0), -np.inf, np.float32)
    answers = Answers(
        np.zeros((query_count, 0), np.int64), np.zeros(0, np.int64), np.zeros((0, dim), np.float32)
    )
    local = source.chunk_rows // source.mesh.size
    program = functools.partial(_best, mesh=source.mesh, count=min(count, local))
    per_row = (scale_N, domain_N, order_N)
    for rows, block, (chunk_values, chunk_ids) in _sweep(source, program, per_row, queries):
        values = np.concatenate([values, chunk_values], axis=1)
        ids = np.concatenate([answers.ids, chunk_ids.astype(np.int64) + rows.start], axis=1)
        # Stable, and lower rows come first: ties go to the lowest index.
        order = np.argsort(-values, axis=1, kind="stable")[:, :count]
        values = np.take_along_axis(values, order, axis=1)
        ids = np.where(values > -np.inf, np.take_along_axis(ids, order, axis=1), -1)
        answers = _with_rows(answers, ids, wanted[wanted < rows.stop], rows.start, block)
    return answers._replace(rows=scaled(answers.rows, unit=source.unit))


def scaled(rows: np.ndarray, *, unit: bool) -> np.ndarray:
    """A few rows f32[X, M] as the passes scale them, on the host.

    Every row is worked out on its own in float64, so that equal rows stay equal.
    """
    if not unit:
        return rows
    wide = rows.astype(np.float64)
    norm = np.sqrt(np.sum(wide * wide, axis=1, keepdims=True))
    return (wide / np.where(norm > 0.0, norm, 1.0)).astype(np.float32)


def read(features: Rows, rows: slice) -> np.ndarray:
    """Rows of anything sliceable as f32[X, M]; numbers beyond float32 become infinities."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(features[rows]).astype(np.float32, order="C", copy=False)


def _with_rows(
    answers: Answers, ids: np.ndarray, wanted: np.ndarray, start: int, block: np.ndarray
) -> Answers:
    """Answers with these ids, whose rows are at hand or in the block that begins at `start`."""
    row_ids = np.union1d(ids[ids >= 0], wanted)
    rows = np.empty((len(row_ids), block.shape[1]), np.float32)
    new = row_ids >= start
    rows[new] = block[row_ids[new] - start]
    rows[~new] = answers.rows[np.searchsorted(answers.row_ids, row_ids[~new])]
    return Answers(ids, row_ids, rows)


def _sweep(
    source: Source, program: Any, per_row: tuple[np.ndarray, ...], fixed: tuple[np.ndarray, ...]
) -> Iterator[tuple[slice, np.ndarray, tuple[np.ndarray, ...]]]:
    """Runs `program(block, *per_row, *fixed)` on every chunk; yields rows, block and results.

    Results with a leading axis of R are cut to the chunk's rows. The next chunk is read while the
    devices work on the last one.
    """
    replicated = NamedSharding(source.mesh, Spec())
    sharded = NamedSharding(source.mesh, Spec("rows"))
    fixed_on_devices = jax.device_put(fixed, replicated)
    waiting: tuple[slice, np.ndarray, Any] | None = None
    total = source.features.shape[0]
    for start in range(0, total, source.chunk_rows):
        rows = slice(start, min(start + source.chunk_rows, total))
        block = read(source.features, rows)
        parts = tuple(values[rows] for values in per_row)
        missing = source.chunk_rows - len(block)
        if missing:
            # Rows that a pass leaves out: their scale is not a number.
            block = np.pad(block, ((0, missing), (0, 0)))
            parts = tuple(
                np.pad(part, (0, missing), constant_values=np.nan if part.dtype.kind == "f" else 0)
                for part in parts
            )
        results = program(*jax.device_put((block, *parts), sharded), *fixed_on_devices)
        if waiting is not None:
            yield _fetch(*waiting, source.chunk_rows)
        waiting = (rows, block, results)
    if waiting is not None:
        yield _fetch(*waiting, source.chunk_rows)


def _fetch(
    rows: slice, block: np.ndarray, results: Any, chunk_rows: int
) -> tuple[slice, np.ndarray, tuple[np.ndarray, ...]]:
    here = rows.stop - rows.start
    arrays = [np.asarray(result) for result in results]
    cut = tuple(a[:here] if a.ndim == 1 and len(a) == chunk_rows else a for a in arrays)
    return rows, block, cut


@functools.partial(jax.jit, static_argnames="unit")
def _survey(block_RxM: jax.Array, direction_M: jax.Array, *, unit: bool) -> tuple:
    # The largest entry first, so that squares neither overflow nor vanish.
    largest_R = jnp.max(jnp.abs(block_RxM), axis=1)
    divisor_R = jnp.where(largest_R == 0.0, 1.0, largest_R)
    norm_R = largest_R * jnp.sqrt(jnp.sum((block_RxM / divisor_R[:, None]) ** 2, axis=1))
    norm_R = jnp.where(jnp.isfinite(norm_R), norm_R, jnp.nan)
    scale_R = jnp.where(norm_R > 0.0, norm_R if unit else 1.0, norm_R / norm_R)
    scale_R = jnp.where(norm_R == 0.0, 1.0, scale_R)
    return norm_R, _inner(block_RxM, scale_R, direction_M[None, :])


@jax.jit
def _scores(
    block_RxM: jax.Array, scale_R: jax.Array, group_R: jax.Array, directions_GxM: jax.Array
) -> tuple:
    direction = directions_GxM if directions_GxM.shape[0] == 1 else directions_GxM[group_R]
    return (_inner(block_RxM, scale_R, direction),)


def _inner(block_RxM: jax.Array, scale_R: jax.Array, direction_RxM: jax.Array) -> jax.Array:
    """Row by row rather than as a matrix product: equal rows then get equal scores."""
    score_R = jnp.sum((block_RxM / scale_R[:, None]) * direction_RxM, axis=1)
    return jnp.where(jnp.isnan(scale_R), -jnp.inf, score_R)


@functools.partial(jax.jit, static_argnames=("mesh", "count"))
def _best(*operands: jax.Array, mesh: Mesh, count: int) -> tuple:
    """Each device's best `count` of its own rows, side by side: values and rows of the chunk."""
    across = Spec(None, "rows")
    by_row, whole = (Spec("rows"),) * 4, (Spec(),) * 3
    local = functools.partial(_local_best, count=count)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(*by_row, *whole), out_specs=(across, across), check_vma=False
    )(*operands)


def _local_best(
    block_RxM: jax.Array,
    scale_R: jax.Array,
    domain_R: jax.Array,
    order_R: jax.Array,
    directions_QxM: jax.Array,
    open_QxP: jax.Array,
    steps_Q: jax.Array,
    *,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    with jax.default_matmul_precision("highest"):
        score_QxR = directions_QxM @ (block_RxM / scale_R[:, None]).T
    admitted_QxR = open_QxP[:, domain_R] & (order_R[None, :] >= steps_Q[:, None])
    admitted_QxR &= ~jnp.isnan(scale_R)[None, :]
    values, local = jax.lax.top_k(jnp.where(admitted_QxR, score_QxR, -jnp.inf), count)
    return values, local + jax.lax.axis_index("rows") * block_RxM.shape[0]
