"""Passes over features that do not fit in memory: chunks of rows, shared out over the devices.

Every pass reads the rows once, in order. The host holds a chunk or two of them, a few numbers per
row, and the rows that a pass was asked to bring back. Rows may be spread over processes: each
passes over its own, and they exchange numbers of every row after the first pass, and the best rows
of every process, with their features, after each.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from partitionsel_jax.offline.exchange import Exchange

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


@dataclasses.dataclass
class Pool:
    """Rows to pass over, and the host's knowledge of every one after the first pass.

    Attributes:
      features: float[N', M], those of this process.
      exchange: which of the N rows of all processes these are.
      domains: i32[N] in [0, P).
      unit: whether rows are scaled to unit norm; zero rows stay zero.
      chunk_rows: R, rows read at a time; a multiple of the number of devices.
      mesh: the devices, along one axis, "rows".
      norms: f32[N]; of the rows as they are stored; nan where an entry is not finite.
      scores: f32[N]; inner products of the scaled rows with the anchor direction; -inf where not
        finite.
      scale: f32[N]; divisors of the rows; nan marks those that are left out.
      passes: so far.
    """

    features: Rows
    exchange: Exchange
    domains: np.ndarray
    unit: bool
    chunk_rows: int
    mesh: Mesh
    norms: np.ndarray
    scores: np.ndarray
    scale: np.ndarray
    passes: int = 0


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


def survey(
    features: Rows,
    domains: np.ndarray,
    direction_M: np.ndarray,
    *,
    unit: bool,
    chunk_rows: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    exchange: Exchange | None = None,
) -> Pool:
    """The first pass: which rows are finite, their norms, and how they lie to one direction.

    Chunks are of `chunk_rows`, or of `CHUNK_BYTES`, over `devices`, or over all that this process
    has.
    """
    devices = tuple(jax.local_devices() if devices is None else devices)
    exchange = exchange or Exchange.of(features.shape[0])
    rows, dim = features.shape
    chunk_rows = chunk_rows or max(1, CHUNK_BYTES // (4 * dim))
    chunk_rows = len(devices) * math.ceil(min(chunk_rows, rows) / len(devices))
    mesh = jax.make_mesh((len(devices),), ("rows",), axis_types=(AxisType.Auto,), devices=devices)
    empty = np.empty(rows, np.float32)
    pool = Pool(features, exchange, domains, unit, chunk_rows, mesh, empty, empty.copy(), empty)
    program = functools.partial(_survey, unit=unit)
    for here, _, (norms, scores) in _sweep(pool, program, (), (direction_M,)):
        count = here.stop - here.start
        pool.norms[here], pool.scores[here] = np.asarray(norms)[:count], np.asarray(scores)[:count]
    pool.norms, pool.scores = map(exchange.of_all_rows, (pool.norms, pool.scores))
    scale = np.where(pool.norms > 0.0, pool.norms if unit else np.float32(1), np.float32(1))
    pool.scale = np.where(np.isnan(pool.norms), np.float32(np.nan), scale)
    return pool


def scores(pool: Pool, directions_GxM: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Every row's inner product with its own group's direction, f32[N]; -inf where left out."""
    scores = np.empty(pool.features.shape[0], np.float32)
    for here, _, score in _sweep(pool, _scores, (pool.scale, group_N), (directions_GxM,)):
        scores[here] = np.asarray(score)[: here.stop - here.start]
    return pool.exchange.of_all_rows(scores)


def cover(
    pool: Pool,
    served_VxM: np.ndarray,
    domain_V: np.ndarray,
    cover_V: np.ndarray,
    *,
    by_domain: bool,
) -> np.ndarray:
    """Sums over some rows, f32[N]: how much nearer their nearest pick is once each row is one.

    Args:
      pool: the rows; -inf for those that are left out.
      served_VxM: scaled features of the rows that are to be served.
      domain_V: i32, their domains.
      cover_V: f32, their similarities to their nearest pick; at least 0.
      by_domain: whether a row serves those of its own domain alone.
    """
    program = functools.partial(_cover, by_domain=by_domain)
    gains = np.empty(pool.features.shape[0], np.float32)
    fixed = served_VxM, domain_V, cover_V
    for here, _, gain in _sweep(pool, program, (pool.scale, pool.domains), fixed):
        gains[here] = np.asarray(gain)[: here.stop - here.start]
    return pool.exchange.of_all_rows(gains)


def fetch(pool: Pool, ids: np.ndarray) -> np.ndarray:
    """Features of a few rows, whose numbers i64[U] ascend, scaled: f32[U, M]."""
    first, dim = pool.exchange.first, pool.features.shape[1]
    mine = ids[(ids >= first) & (ids < first + pool.features.shape[0])]
    rows = [read(pool.features, slice(i, i + 1)) for i in (mine - first).tolist()]
    known = np.concatenate(rows) if rows else np.zeros((0, dim), np.float32)
    return scaled(pool.exchange.rows_of(ids, mine, known), unit=pool.unit)


def best(
    pool: Pool,
    order_N: np.ndarray,
    directions_QxM: np.ndarray,
    open_QxP: np.ndarray,
    steps_Q: np.ndarray,
    count: int,
    wanted: np.ndarray,
) -> Answers:
    """Which rows have the largest inner products with a direction? Equal ones by index.

    Args:
      pool: the rows.
      order_N: i32[N]; -1 for rows that are out of the question, the step at which a row was
        drafted, or `UNDRAFTED`.
      directions_QxM: f32, one for every query.
      open_QxP: bool; the domains that a query is about.
      steps_Q: i32; rows whose `order` is below are left out.
      count: L >= 1, rows for every query.
      wanted: i64[W], ascending; rows to bring back besides.
    """
    query_count, dim = directions_QxM.shape
    values = np.full((query_count, 0), -np.inf, np.float32)
    ids, row_ids = np.zeros((query_count, 0), np.int64), np.zeros(0, np.int64)
    rows = np.zeros((0, dim), np.float32)
    local, first = pool.chunk_rows // pool.mesh.size, pool.exchange.first
    mine = wanted[(wanted >= first) & (wanted < first + pool.features.shape[0])]
    program = functools.partial(_best, mesh=pool.mesh, count=min(count, local))
    per_row = (pool.scale, pool.domains, order_N)
    for here, block, found in _sweep(pool, program, per_row, (directions_QxM, open_QxP, steps_Q)):
        chunk_values, chunk_ids = (np.asarray(array) for array in found)
        values = np.concatenate([values, chunk_values], axis=1)
        start, stop = pool.exchange.first + here.start, pool.exchange.first + here.stop
        ids = np.concatenate([ids, chunk_ids.astype(np.int64) + start], axis=1)
        values, ids = _first(values, ids, count)
        # Of the rows named by now, those of this chunk and those that were at hand.
        named = np.union1d(ids[ids >= 0], mine[mine < stop])
        new = named >= start
        known = rows[np.searchsorted(row_ids, named[~new])]
        rows = np.concatenate([known, block[named[new] - start]])
        row_ids = named
    missing = ((0, 0), (0, count - ids.shape[1]))
    values, ids = _first(
        pool.exchange.side_by_side(np.pad(values, missing, constant_values=-np.inf)),
        pool.exchange.side_by_side(np.pad(ids, missing, constant_values=-1)),
        count,
    )
    named = np.union1d(ids[ids >= 0], wanted)
    rows = pool.exchange.rows_of(named, row_ids, rows)
    return Answers(ids, named, scaled(rows, unit=pool.unit))


def _first(values: np.ndarray, ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `count` of every query; stable, and lower rows come first: ties go to these."""
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(values, order, axis=1)
    return values, np.where(values > -np.inf, np.take_along_axis(ids, order, axis=1), -1)


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


def _sweep(
    pool: Pool, program: Any, per_row: Sequence[np.ndarray], fixed: Sequence[np.ndarray]
) -> Iterator[tuple[slice, np.ndarray, Any]]:
    """Runs `program(block, *per_row, *fixed)` on every chunk; yields rows, block and results.

    Blocks and results have R rows, of which the last chunk's may be padding. The next chunk is read
    while the devices work on the last one.
    """
    sharded = NamedSharding(pool.mesh, Spec("rows"))
    on_devices = jax.device_put(tuple(fixed), NamedSharding(pool.mesh, Spec()))
    waiting: list[tuple[slice, np.ndarray, Any]] = []
    total = pool.features.shape[0]
    for start in range(0, total, pool.chunk_rows):
        here = slice(start, min(start + pool.chunk_rows, total))
        block = read(pool.features, here)
        first = pool.exchange.first
        parts = [values[first + here.start : first + here.stop] for values in per_row]
        if missing := pool.chunk_rows - len(block):
            block = np.pad(block, ((0, missing), (0, 0)))
            # Rows that a pass leaves out: their scale is not a number.
            parts = [
                np.pad(part, (0, missing), constant_values=np.nan if part.dtype.kind == "f" else 0)
                for part in parts
            ]
        results = program(*jax.device_put((block, *parts), sharded), *on_devices)
        yield from waiting
        waiting = [(here, block, results)]
    pool.passes += 1
    yield from waiting


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
) -> jax.Array:
    direction = directions_GxM if directions_GxM.shape[0] == 1 else directions_GxM[group_R]
    return _inner(block_RxM, scale_R, direction)


@functools.partial(jax.jit, static_argnames="by_domain")
def _cover(
    block_RxM: jax.Array,
    scale_R: jax.Array,
    domain_R: jax.Array,
    served_VxM: jax.Array,
    domain_V: jax.Array,
    cover_V: jax.Array,
    *,
    by_domain: bool,
) -> jax.Array:
    with jax.default_matmul_precision("highest"):
        similar_RxV = (block_RxM / scale_R[:, None]) @ served_VxM.T
    if by_domain:
        similar_RxV = jnp.where(domain_R[:, None] == domain_V[None, :], similar_RxV, 0.0)
    gain_R = jnp.sum(jnp.maximum(similar_RxV - cover_V[None, :], 0.0), axis=1)
    return jnp.where(jnp.isnan(scale_R), -jnp.inf, gain_R)


def _inner(block_RxM: jax.Array, scale_R: jax.Array, direction_RxM: jax.Array) -> jax.Array:
    """Row by row rather than as a matrix product: equal rows then get equal scores."""
    score_R = jnp.sum((block_RxM / scale_R[:, None]) * direction_RxM, axis=1)
    return jnp.where(jnp.isnan(scale_R), -jnp.inf, score_R)


@functools.partial(jax.jit, static_argnames=("mesh", "count"))
def _best(*operands: jax.Array, mesh: Mesh, count: int) -> tuple:
    """Each device's best `count` of its own rows, side by side: values and rows of the chunk."""

    def local(block_RxM, scale_R, domain_R, order_R, directions_QxM, open_QxP, steps_Q):
        with jax.default_matmul_precision("highest"):
            score_QxR = directions_QxM @ (block_RxM / scale_R[:, None]).T
        admitted_QxR = open_QxP[:, domain_R] & (order_R[None, :] >= steps_Q[:, None])
        admitted_QxR &= ~jnp.isnan(scale_R)[None, :]
        values, local = jax.lax.top_k(jnp.where(admitted_QxR, score_QxR, -jnp.inf), count)
        return values, local + jax.lax.axis_index("rows") * block_RxM.shape[0]

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(*(Spec("rows"),) * 4, *(Spec(),) * 3),
        out_specs=(Spec(None, "rows"),) * 2,
        check_vma=False,
    )(*operands)
