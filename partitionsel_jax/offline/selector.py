"""`select`: a selection from features that were computed elsewhere, however many there are."""

import dataclasses
import logging
import operator
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.offline import drafts, passes, rounds
from partitionsel_jax.offline.coverage import facility_location
from partitionsel_jax.offline.exchange import Exchange
from partitionsel_jax.offline.passes import Pool, Rows
from partitionsel_jax.selection import COUPLINGS, refit
from partitionsel_jax.selection import budgets as schemes

# Utilities that features alone suffice for; all with the greedy rule.
UTILITIES = (
    *("gradient_matching", "taylor", "alignment", "grad_norm", "random"),
    "facility_location",
)
# Those that look at the anchors.
ANCHORED = ("gradient_matching", "taylor", "alignment")
SCALINGS = ("unit", "none")
# Bytes of float32 rows that drafts may pick from.
SHORTLIST_BYTES = 32 * 2**20
# Anchors read at a time.
ANCHOR_ROWS = 4096

Budgets = Callable[[jax.Array, int], jax.Array]
# Rows, weights, gains, and the utility reached.
_Picks = tuple[np.ndarray, np.ndarray, np.ndarray, float]

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How to go over the features. It changes the time and the memory, not the picks.

    Attributes:
      chunk_rows: rows read at a time; None: 16 MiB of them.
      shortlist_rows: rows kept in memory for drafts; None: 32 MiB of them. More means fewer
        passes, and more work between them.
      devices: of this process, what shares the rows of a chunk; None: all of them.
    """

    chunk_rows: int | None = None
    shortlist_rows: int | None = None
    devices: tuple[jax.Device, ...] | None = None


@dataclasses.dataclass(frozen=True)
class OfflineSelection:
    """The rows that were picked.

    Attributes:
      indices: i64[K'], K' <= K; distinct rows, in the order picked. Fewer than K only where a
        domain has fewer finite rows than its budget.
      weights: f32[K'], >= 0; 1 for utilities without weights.
      gains: f32[K'], the utility's rate of gain in each, or its score, when it was picked; nan for
        `random`.
      utility: the objective reached, summed over blocks; nan for `random`.
      budgets: i64[P]; most picks per domain, or [K] if domains were ignored.
      picks_per_domain: i64[P].
      dropped: rows with entries that are not finite.
      dropped_anchors: anchors with entries that are not finite.
      passes: over the features.
    """

    indices: np.ndarray
    weights: np.ndarray
    gains: np.ndarray
    utility: float
    budgets: np.ndarray
    picks_per_domain: np.ndarray
    dropped: int
    dropped_anchors: int
    passes: int


def select(
    features: Rows,
    anchors: Rows | None = None,
    domains: np.ndarray | None = None,
    *,
    size: int,
    budgets: Budgets | np.ndarray = schemes.proportional,
    utility: str = "gradient_matching",
    coupling: str = "joint",
    scaling: str = "unit",
    ridge: float = 0.0,
    step_scale: float = 1.0,
    seed: int = 0,
    block: int | None = None,
    references: int = 1024,
    reading: Reading | None = None,
    spread: bool = False,
) -> OfflineSelection:
    """Selects `size` rows of features that may be far larger than memory.

    The picks are those of `selection.select` with the greedy rule on the same features: every one
    is the best of *all* feasible rows, ties to the lowest index, up to rounding in float32. Up
    to that, they depend on neither the chunks nor the shortlist nor the number of devices.

    Once no row can raise the utility any more, `gradient_matching` fills the budgets by the
    gradient that is left, with weight 0. With more picks than feature dimensions that is usual:
    `block` then has the anchors matched again and again, each time by rows not picked before.

    Args:
      features: float[N, M]; anything with shape, dtype and slices of rows: an array, a memory map,
        an HDF5 data set. Read in chunks, several times over, and converted to float32. Rows with
        entries that are not finite are never picked.
      anchors: float[A, M]; their mean is the direction to match. `grad_norm`, `random` and
        `facility_location` need none. Anchors with entries that are not finite are left out.
      domains: integers [N], >= 0; P is the largest and one. None: a single domain.
      size: K, 1 <= K <= N.
      budgets: most picks per domain: i32[P] that sum to K, or a function of `selection.budgets`
        (through `functools.partial` where it takes more) of the finite rows per domain and K.
      utility: one of `UTILITIES`.
      coupling: `joint`, `independent` or `agnostic`, as in `selection.select`.
      scaling: "unit" to scale features and anchors to unit norm, as in training, or "none".
        `grad_norm` ranks by the norms before scaling.
      ridge: >= 0; added to the Gram matrix's diagonal by `gradient_matching`.
      step_scale: > 0; eta of `taylor`.
      seed: of `random` and of a sample of references, 0 .. 2^32 - 1.
      references: of `facility_location`; rows, at least 1, that the picks are to resemble: a random
        sample of so many where there are more.
      block: of `gradient_matching`; most picks, at least 1, that match the anchors together. The
        budgets are shared out over blocks of this size; a block ends early when no row can better
        it, and the next one takes what it left. None: all picks together.
      reading: chunks, memory and devices.
      spread: whether every process of a JAX job gives rows and domains of its own, and all the same
        of everything else. Rows are numbered through in order of the processes, and the picks are
        those of one process with all rows.

    Returns:
      An `OfflineSelection`.

    Raises:
      ValueError: before anything is read, for a shape, dtype, name or number that does not fit;
        after the anchors, if none is finite; after the first pass, if fewer than K rows are.

    Example:
      >>> import numpy as np
      >>> features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], np.float32)
      >>> anchors = np.array([[1.0, 0.5]], np.float32)
      >>> select(features, anchors, np.array([0, 0, 1]), size=2).indices.tolist()
      [1, 2]
    """
    reading = reading or Reading()
    check_names(utility, coupling, scaling)
    _check_features(features, anchors, utility)
    exchange = Exchange.of(features.shape[0], spread=spread)
    _check_numbers(exchange.total, size, ridge, step_scale, seed, block, references, reading)
    domain_N = exchange.of_all_rows(_checked_domains(domains, features.shape[0], exchange.total))
    counts_P = np.bincount(domain_N)
    if coupling != "agnostic":
        # As a trial: the real counts are known after the first pass only.
        limits(budgets, counts_P, size)
    size, unit = operator.index(size), scaling == "unit"
    anchor_M, dropped_anchors = np.zeros(features.shape[1], np.float32), 0
    if utility in ANCHORED and anchors is not None:
        anchor_M, dropped_anchors = _anchor_direction(anchors, unit=unit)

    began = time.perf_counter()
    pool = passes.survey(
        features,
        np.zeros_like(domain_N) if coupling == "agnostic" else domain_N,
        anchor_M,
        unit=unit,
        chunk_rows=reading.chunk_rows,
        devices=reading.devices,
        exchange=exchange,
    )
    sound_N = ~np.isnan(pool.norms)
    sound, seconds = int(np.sum(sound_N)), time.perf_counter() - began
    _LOG.info("pass 1: %d of %d rows are finite, %.1f s", sound, len(sound_N), seconds)
    if sound < size:
        raise ValueError(
            f"features must have at least size={size} rows with finite entries, got {sound}; "
            "select fewer, or compute them anew."
        )
    if coupling == "agnostic":
        limits_P = np.array([size])
    elif callable(budgets):
        limits_P = limits(budgets, np.bincount(domain_N[sound_N], minlength=len(counts_P)), size)
    else:
        limits_P = np.asarray(budgets, np.int64)
    most = reading.shortlist_rows or max(1, SHORTLIST_BYTES // (4 * features.shape[1]))
    if utility in ("gradient_matching", "taylor"):
        weighted = utility == "gradient_matching"
        scale = np.max(np.abs(pool.scores[pool.scores > -np.inf]), initial=0.0)
        task = drafts.Task(
            anchor=jnp.asarray(anchor_M),
            ridge=jnp.float32(ridge),
            step_scale=jnp.float32(step_scale),
            scale=jnp.float32(scale),
            floor=jnp.float32(refit.TOLERANCE * scale if weighted else -np.inf),
            weighted=weighted,
        )
        indices, weights, gains, reached = _pursued(
            pool,
            task,
            limits_P,
            min(most, len(domain_N)),
            block if weighted else None,
            by_domain=coupling == "independent",
        )
    elif utility == "facility_location":
        indices, gains = facility_location(
            pool,
            limits_P,
            references=references,
            shortlist_rows=most,
            seed=seed,
            by_domain=coupling == "independent",
        )
        weights, reached = np.ones(len(indices), np.float32), float(np.sum(gains, dtype=float))
    else:
        scores_N = _scores(pool, utility, seed)
        indices = rounds.rank(scores_N, pool.domains, limits_P)
        weights = np.ones(len(indices), np.float32)
        gains = scores_N[indices]
        if utility == "random":
            gains = np.full_like(gains, np.nan)
        reached = float(np.sum(gains))
    if len(indices) < size:
        _LOG.info("%d of %d slots are empty: domains ran out of rows", size - len(indices), size)
    return OfflineSelection(
        indices=indices,
        weights=weights,
        gains=gains,
        utility=reached,
        budgets=limits_P,
        picks_per_domain=np.bincount(domain_N[indices], minlength=len(counts_P)),
        dropped=len(sound_N) - sound,
        dropped_anchors=dropped_anchors,
        passes=pool.passes,
    )


def _pursued(
    pool: Pool,
    task: drafts.Task,
    limits_P: np.ndarray,
    shortlist_rows: int,
    block: int | None,
    *,
    by_domain: bool,
) -> _Picks:
    """Picks in blocks that each match the anchors anew."""
    taken_N: np.ndarray | None = None

    def played(budgets_P: np.ndarray, *, fills: bool) -> _Picks:
        domain = np.arange(len(budgets_P))
        each = [np.where(domain == p, left, 0) for p, left in enumerate(budgets_P)]
        budgets = each if by_domain else [budgets_P]
        pursuits = rounds.play(pool, task, budgets, shortlist_rows, taken_N, fills=fills)
        reached = (
            sum(p.gains) if p.state.support is None else float(refit.utility(p.state.support))
            for p in pursuits
        )
        return (*rounds.merge(pursuits), float(sum(reached)))

    if block is None:
        return played(limits_P, fills=True)
    taken_N, left_P = np.zeros(len(pool.domains), bool), limits_P.copy()
    found, betters = [], True
    while betters and (left := int(left_P.sum())):
        budgets_P = left_P
        if block < left:
            counts_P = jnp.asarray(left_P, jnp.int32)
            shares_P = jnp.asarray(limits_P, jnp.float32)
            budgets_P = np.asarray(schemes.fixed(counts_P, block, shares_P), np.int64)
        picks = played(budgets_P, fills=False)
        if not (betters := len(picks[0]) > 0):
            picks = played(left_P, fills=True)
        found.append(picks)
        taken_N[picks[0]] = True
        left_P = left_P - np.bincount(pool.domains[picks[0]], minlength=len(left_P))
    *arrays, reached = zip(*found, strict=True)
    indices, weights, gains = map(np.concatenate, arrays)
    return indices, weights, gains, float(sum(reached))


def _anchor_direction(anchors: Rows, *, unit: bool) -> tuple[np.ndarray, int]:
    """Mean of the finite anchors' features, f32[M], and the number of those left out."""
    total_M, count = np.zeros(anchors.shape[1], np.float64), 0
    for start in range(0, anchors.shape[0], ANCHOR_ROWS):
        stop = min(start + ANCHOR_ROWS, anchors.shape[0])
        block = passes.read(anchors, slice(start, stop))
        block = block[np.all(np.isfinite(block), axis=1)]
        total_M += np.sum(passes.scaled(block, unit=unit), axis=0, dtype=np.float64)
        count += len(block)
    if not count:
        raise ValueError(
            f"anchors must have a row with finite entries, got none among {anchors.shape[0]}; "
            "compute them anew."
        )
    return (total_M / count).astype(np.float32), anchors.shape[0] - count


def check_names(utility: str, coupling: str, scaling: str = "unit") -> None:
    """Raises ValueError for a name that `select` does not know."""
    for argument, name, known in (
        ("utility", utility, UTILITIES),
        ("coupling", coupling, tuple(COUPLINGS)),
        ("scaling", scaling, SCALINGS),
    ):
        if name not in known:
            hint = "; others need more than features" if argument == "utility" else ""
            raise ValueError(f"{argument} must be one of {list(known)}, got {name!r}{hint}.")


def check_matrix(name: str, matrix: Rows) -> None:
    """Raises ValueError unless features or anchors are a matrix of floats."""
    shape = getattr(matrix, "shape", None)
    if shape is None or len(shape) != 2 or 0 in shape:
        came = f"shape {shape}" if shape is not None else type(matrix).__name__
        raise ValueError(
            f"{name} must be a matrix of shape [rows, dimension], neither of them 0, got {came}."
        )
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise ValueError(
            f"{name} must be float16, float32 or float64, got {matrix.dtype}; "
            "convert it with astype."
        )


def _checked_domains(domains: np.ndarray | None, rows: int, total: int) -> np.ndarray:
    """Domains as i32[N], all 0 for None; no more than there are rows in all."""
    if domains is None:
        return np.zeros(rows, np.int32)
    domains = np.asarray(domains)
    check_domains(domains, rows)
    if domains.min() < 0 or domains.max() >= total:
        raise ValueError(
            f"domains must lie in 0 .. {total - 1}, got values from {domains.min()} to "
            f"{domains.max()}; number the domains from 0."
        )
    return np.asarray(domains, np.int32)


def check_domains(domains: np.ndarray, rows: int) -> None:
    """Raises ValueError unless there is an integer for each row."""
    if domains.shape != (rows,) or not np.issubdtype(domains.dtype, np.integer):
        raise ValueError(
            f"domains must be integers of shape ({rows},), one for every row of features, got "
            f"{domains.dtype}{list(domains.shape)}."
        )


def _check_features(features: Rows, anchors: Rows | None, utility: str) -> None:
    check_matrix("features", features)
    if anchors is None and utility in ANCHORED:
        raise ValueError(
            f"anchors must be given for utility={utility!r}, got None; pass their features "
            "float[A, M], or choose grad_norm or random."
        )
    if anchors is not None:
        check_matrix("anchors", anchors)
        if anchors.shape[1] != features.shape[1]:
            raise ValueError(
                f"anchors must have the dimension of features, {features.shape[1]}, got "
                f"{anchors.shape[1]}; sketch both with the same seed and dimension."
            )


def _check_numbers(
    rows: int,
    size: int,
    ridge: float,
    step_scale: float,
    seed: int,
    block: int | None,
    references: int,
    reading: Reading,
) -> None:
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"size must be a Python integer >= 1, got {size!r}; say how many to pick.")
    if size > rows:
        raise ValueError(f"size must be at most the {rows} rows of features, got {size}.")
    for argument, number, low in (("ridge", ridge, "0 <="), ("step_scale", step_scale, "0 <")):
        finite = 0.0 <= number <= float(np.finfo(np.float32).max)
        if not finite or (low == "0 <" and number == 0.0):
            raise ValueError(f"{argument} must be finite and {low} {argument}, got {number}.")
    if not 0 <= seed < 2**32:  # larger ones would be cut to their last 32 bits
        raise ValueError(f"seed must lie in 0 .. 2^32 - 1, got {seed}.")
    if references < 1:
        raise ValueError(f"references must be at least 1, got {references}; 1024 is usual.")
    if block is not None and block < 1:
        raise ValueError(f"block must be at least 1, got {block}; None for one of all picks.")
    for argument in ("chunk_rows", "shortlist_rows"):
        number = getattr(reading, argument)
        if number is not None and number < 1:
            raise ValueError(f"{argument} must be at least 1, got {number}; None sets it.")


def limits(budgets: Budgets | np.ndarray, counts_P: np.ndarray, size: int) -> np.ndarray:
    """Most picks per domain, i64[P], given the rows of each.

    Raises:
      ValueError: budgets that do not fit the domains or the size, or exceed a domain's rows.
    """
    if callable(budgets):
        return np.asarray(budgets(jnp.asarray(counts_P, jnp.int32), size), np.int64)
    budgets_P = np.asarray(budgets)
    if budgets_P.shape != counts_P.shape or not np.issubdtype(budgets_P.dtype, np.integer):
        raise ValueError(
            f"budgets must be {len(counts_P)} integers, one per domain, got "
            f"{budgets_P.dtype}{list(budgets_P.shape)}; domains are numbered from 0."
        )
    if budgets_P.min() < 0 or budgets_P.sum() != size:
        raise ValueError(
            f"budgets must be >= 0 and sum to size={size}, got {budgets_P.tolist()} with sum "
            f"{budgets_P.sum()}; change either."
        )
    if np.any(budgets_P > counts_P):
        domain = int(np.argmax(budgets_P > counts_P))
        raise ValueError(
            f"budgets must not exceed the rows of a domain, got {budgets_P[domain]} for domain "
            f"{domain} of {counts_P[domain]} rows; give the rest to other domains."
        )
    return budgets_P.astype(np.int64)


def _scores(pool: Pool, utility: str, seed: int) -> np.ndarray:
    """Scores that the other utilities rank by, f32[N]; -inf for rows left out."""
    if utility == "alignment":
        return pool.scores
    found = pool.norms
    if utility == "random":
        drawn = jax.random.uniform(jax.random.key(seed), (len(found),), jnp.float32)
        found = np.asarray(drawn)
    return np.where(np.isnan(pool.norms), np.float32(-np.inf), found)
