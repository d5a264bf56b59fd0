"""Budgets: how many picks each domain may have.

Every function maps the pool's counts per domain, i32[P] >= 0, and a static `size` to i32[P]
budgets that

* sum to `size`, or equal the counts where the pool holds fewer candidates than that;
* never exceed the counts: what a domain cannot fill goes to the others;
* are computed by jittable code, the same eagerly and under jit, vmap, pmap and shard_map.

They raise ValueError for counts that are not i32[P], for a `size` below 1, and, where the counts
are concrete, for negative counts and for a pool smaller than `size`.
"""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection import curriculum as curricula
from partitionsel_jax.selection.curriculum import (
    CurriculumState,
    curriculum_start,
    curriculum_update,
)
from partitionsel_jax.selection.problem import check_size, is_concrete

__all__ = [
    "CurriculumState",
    "curriculum",
    "curriculum_start",
    "curriculum_update",
    "fixed",
    "proportional",
    "temperature",
    "uniform",
]

# How far below an integer floor * size may come out in float32 and still count as that integer.
_ROUNDING = 1e-4


def proportional(counts: jax.Array, size: int) -> jax.Array:
    """Shares proportional to the pool's counts, by largest remainder (Hamilton's method).

    Exact in integers: no rounding decides a remainder, and ties go to the lowest index.

    Args:
      counts: i32[P]; candidates per domain, fewer than 2^29 in all.
      size: K >= 1. Static.

    Returns:
      i32[P] budgets; see the module's contract.
    """
    return _proportional(_check(counts, size), size=operator.index(size))


def uniform(counts: jax.Array, size: int) -> jax.Array:
    """The same for every domain, as far as its count goes; ties go to the lowest index.

    Args:
      counts: i32[P]; candidates per domain.
      size: K >= 1. Static.

    Returns:
      i32[P] budgets; see the module's contract.
    """
    counts = _check(counts, size)
    return _apportion(counts, jnp.ones(counts.shape, jnp.float32), size=operator.index(size))


def fixed(counts: jax.Array, size: int, shares: jax.Array) -> jax.Array:
    """Shares set by hand.

    Args:
      counts: i32[P]; candidates per domain.
      size: K >= 1. Static.
      shares: f32[P], >= 0, of any positive sum. A domain with share 0 gets picks only when all the
        others are exhausted.

    Returns:
      i32[P] budgets; see the module's contract.
    """
    counts = _check(counts, size)
    if np.shape(shares) != counts.shape:
        raise ValueError(
            f"shares must have shape {counts.shape} like counts, got {np.shape(shares)}; "
            "give one share per domain."
        )
    if is_concrete(shares):
        values = np.asarray(shares)
        if not (np.isfinite(values).all() and values.min() >= 0.0 and values.sum() > 0.0):
            raise ValueError(
                f"shares must be finite, >= 0 and not all 0, got {values.tolist()}; "
                "they need not sum to 1."
            )
    shares = jnp.asarray(shares, jnp.float32)
    return _apportion(counts, shares, size=operator.index(size))


def temperature(counts: jax.Array, size: int, tau: jax.Array | float) -> jax.Array:
    """Shares proportional to counts^tau: tau = 1 is proportional but for ties, tau = 0 uniform.

    Args:
      counts: i32[P]; candidates per domain.
      size: K >= 1. Static.
      tau: f32[], finite.

    Returns:
      i32[P] budgets; see the module's contract.
    """
    counts = _check(counts, size)
    if np.shape(tau) != () or (is_concrete(tau) and not np.isfinite(np.asarray(tau))):
        raise ValueError(f"tau must be a finite scalar, got {tau}; 1 is proportional, 0 uniform.")
    return _temperature(counts, jnp.asarray(tau, jnp.float32), size=operator.index(size))


def curriculum(
    counts: jax.Array,
    size: int,
    state: CurriculumState,
    *,
    blend: jax.Array | float = 0.5,
    floor: jax.Array | float = 0.05,
    sharpness: jax.Array | float = 1.0,
) -> jax.Array:
    """Shares that move towards the domains whose anchors' loss falls least.

    * Before any gain was seen they are `proportional`, the floor aside.
    * From then on a domain has at least min(c_p, floor(floor * size)) picks.
    * They do not depend on the losses' scale.
    * If all domains hold as many candidates, the one that improves least has no fewer picks than
      `proportional` gives it.

    Args:
      counts: i32[P]; candidates per domain.
      size: K >= 1. Static.
      state: from `curriculum_start` and, every step, `curriculum_update`.
      blend: f32[] in [0, 1]; weight of the tilted shares against the proportional ones.
      floor: f32[] in [0, 1/P]; smallest share of a domain that has candidates.
      sharpness: f32[], >= 0; how much the gains tilt the shares (see the module `curriculum`). The
        shares per candidate of two domains differ by a factor of exp(2 sharpness) at most.

    Returns:
      i32[P] budgets; see the module's contract.

    Example:
      >>> state = curriculum_start(2)
      >>> for losses in ([2.0, 2.0], [1.0, 1.9]):
      ...     state = curriculum_update(state, jnp.array(losses))
      >>> curriculum(jnp.array([40, 40]), 20, state).tolist()
      [8, 12]
    """
    counts = _check(counts, size)
    if state.gains.shape != counts.shape:
        raise ValueError(
            f"state must be of {counts.shape[0]} domains like counts, got {state.gains.shape[0]}; "
            f"begin with curriculum_start({counts.shape[0]})."
        )
    curricula.check_share("blend", blend)
    curricula.check_share("floor", floor)
    if is_concrete(floor) and float(np.asarray(floor)) * counts.shape[0] > 1.0 + 1e-6:
        raise ValueError(
            f"floor must be at most 1/P = {1 / counts.shape[0]:g}, got {floor}; "
            f"{counts.shape[0]} domains cannot each have a larger share."
        )
    if np.shape(sharpness) != () or (
        is_concrete(sharpness) and not 0.0 <= float(np.asarray(sharpness)) < np.inf
    ):
        raise ValueError(
            f"sharpness must be a finite scalar >= 0, got {sharpness}; 0 is proportional."
        )
    options = (jnp.asarray(value, jnp.float32) for value in (blend, floor, sharpness))
    return _curriculum(counts, state, *options, size=operator.index(size))


@functools.partial(jax.jit, static_argnames="size")
def _proportional(counts: jax.Array, *, size: int) -> jax.Array:
    total = jnp.maximum(jnp.sum(counts, dtype=jnp.int32), 1)
    quotient, remainder = jnp.zeros_like(counts), jnp.zeros_like(counts)
    # size * counts may not fit 32 bits: long division, one bit of `size` at a time.
    for bit in bin(size)[2:]:
        remainder = 2 * remainder + (counts if bit == "1" else 0)
        carry = remainder // total
        quotient, remainder = 2 * quotient + carry, remainder - carry * total
    seats = _grant(quotient, remainder, size - jnp.sum(quotient, dtype=jnp.int32))
    return jnp.where(total <= size, counts, seats)


@functools.partial(jax.jit, static_argnames="size")
def _temperature(counts: jax.Array, tau: jax.Array, *, size: int) -> jax.Array:
    logarithm = jnp.log(jnp.maximum(counts, 1).astype(jnp.float32))
    exponent = jnp.where(counts > 0, tau * logarithm, -jnp.inf)
    return _apportion(counts, jnp.exp(exponent - jnp.max(exponent, initial=0.0)), size=size)


@functools.partial(jax.jit, static_argnames="size")
def _curriculum(
    counts: jax.Array,
    state: CurriculumState,
    blend: jax.Array,
    floor: jax.Array,
    sharpness: jax.Array,
    *,
    size: int,
) -> jax.Array:
    lowest = jnp.minimum(counts, jnp.floor(floor * size + _ROUNDING).astype(jnp.int32))
    shares = curricula.shares(counts, state, blend, floor, sharpness)
    seats = _apportion(counts, shares, lowest, size=size)
    return jnp.where(jnp.any(state.weights > 0.0), seats, _proportional(counts, size=size))


@functools.partial(jax.jit, static_argnames="size")
def _apportion(
    counts: jax.Array, shares: jax.Array, lowest: jax.Array | int = 0, *, size: int
) -> jax.Array:
    """Budgets near min(c_p, level * share_p), the level such that they sum to `size`.

    None is below `lowest`, i32[P] <= counts, which must not sum to more than `size`.
    """
    favoured = shares > 0.0
    held = jnp.sum(jnp.where(favoured, counts, 0), dtype=jnp.int32)
    slack = jnp.maximum(size - held, 0)
    quota = _fill(jnp.where(favoured, counts, 0), shares, size - slack)
    quota += _fill(jnp.where(favoured, 0, counts), jnp.ones_like(shares), slack)
    seats = jnp.clip(jnp.floor(quota).astype(jnp.int32), lowest, counts)
    return _settle(seats, quota, counts, lowest, size)


def _fill(counts: jax.Array, shares: jax.Array, amount: jax.Array) -> jax.Array:
    """Real quotas min(c_p, level * share_p) that sum to `amount`, by water-filling: f32[P]."""
    held = jnp.where(shares > 0.0, counts, 0).astype(jnp.float32)
    wanted = jnp.where(counts > 0, shares / jnp.maximum(jnp.max(shares), 1e-30), 0.0)
    # Domains fill up in the order of count per share; `level` supposes that all before one have.
    ratio = jnp.where(wanted > 0.0, held / jnp.where(wanted > 0.0, wanted, 1.0), jnp.inf)
    order = jnp.argsort(ratio)
    filled_before = jnp.cumsum(held[order]) - held[order]
    wanted_after = jnp.cumsum(wanted[order][::-1])[::-1]
    level = (amount - filled_before) / jnp.where(wanted_after > 0.0, wanted_after, 1.0)
    holds = (wanted_after > 0.0) & (level <= ratio[order])
    level = jnp.where(jnp.any(holds), level[jnp.argmax(holds)], jnp.inf)
    return jnp.where(wanted > 0.0, jnp.minimum(held, level * wanted), 0.0)


def _settle(
    seats: jax.Array, quota: jax.Array, counts: jax.Array, lowest: jax.Array | int, size: int
) -> jax.Array:
    """Gives the seats that flooring left, one at a time, to the largest remainder."""
    goal = jnp.minimum(size, jnp.sum(counts, dtype=jnp.int32))

    def move_one(seats: jax.Array) -> jax.Array:
        short = jnp.sum(seats, dtype=jnp.int32) < goal
        able = jnp.where(short, seats < counts, seats > lowest)
        need = jnp.where(short, quota - seats, seats - quota)
        chosen = jnp.argmax(jnp.where(able, need, -jnp.inf))
        return seats.at[chosen].add(jnp.where(short, 1, -1))

    return jax.lax.while_loop(
        lambda seats: jnp.sum(seats, dtype=jnp.int32) != goal, move_one, seats
    )


def _grant(seats: jax.Array, remainder: jax.Array, left: jax.Array) -> jax.Array:
    """One seat more for each of the `left` largest remainders, ties to the lowest index."""
    order = jnp.argsort(-remainder, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    return seats + (rank < left)


def _check(counts: jax.Array | np.ndarray, size: int) -> jax.Array:
    """Checks counts and size, and answers the counts as i32[P]."""
    check_size(size)
    if is_concrete(counts):
        counts = np.asarray(counts)
    if counts.ndim != 1 or counts.shape[0] < 1 or not jnp.issubdtype(counts.dtype, jnp.integer):
        raise ValueError(
            f"counts must be i32[P] with P >= 1, got {counts.dtype}{list(counts.shape)}; "
            "count the pool's candidates per domain."
        )
    if is_concrete(counts):
        if counts.min() < 0:
            raise ValueError(f"counts must be >= 0, got {counts.tolist()}; count with bincount.")
        if counts.sum() < size:
            raise ValueError(
                f"the pool must hold at least size={size} candidates, got {counts.tolist()} with "
                f"sum {counts.sum()}; draw a larger pool or select fewer."
            )
    return jnp.asarray(counts, jnp.int32)
