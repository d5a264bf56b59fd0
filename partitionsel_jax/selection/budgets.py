"""Budgets: how many picks each domain may have.

Every function maps the pool's counts per domain, i32[P] >= 0 (fewer than 2^29 in all), and a static
`size` K >= 1 to i32[P] budgets that

* sum to `size`, or equal the counts where the pool holds fewer candidates than that;
* never exceed the counts: what a domain cannot fill goes to the others;
* are computed by jittable code, the same eagerly and under jit, vmap, pmap and shard_map.

They raise ValueError for counts that are not i32[P], for a `size` below 1, and, where values are
concrete, for negative counts, a pool smaller than `size`, and arguments out of their range.

The *curriculum* moves the shares to where the anchors' loss falls least. Every step tells the mean
loss of each domain's anchors. From one step to the next, a domain's *relative gain* is
(l_before - l_now) / max(l_before, l_now): in [-1, 1], whatever the loss's scale. Its exponential
moving average g_p tilts the pool's proportional shares c_p,

    tilted_p  is proportional to  c_p exp(-sharpness g_p / max_q |g_q|),

so that equal gains leave them as they are, and only the gains' ratios matter.
"""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection.arrays import jit, tie
from partitionsel_jax.selection.problem import check_count, check_scalar, is_concrete

# How far below an integer floor * size may come out in float32 and still count as that integer.
_ROUNDING = 1e-4


def proportional(counts: jax.Array, size: int) -> jax.Array:
    """Shares proportional to the pool's counts, by largest remainder (Hamilton's method).

    Exact in integers: no rounding decides a remainder, and ties go to the lowest index.

    Args:
      counts: i32[P]; candidates per domain.
      size: K >= 1. Static.

    Returns:
      i32[P] budgets; see the module's contract.

    Example:
      >>> proportional(jnp.array([10, 30, 60]), 20).tolist()
      [2, 6, 12]
    """
    return _proportional(_check(counts, size), size=operator.index(size))


def uniform(counts: jax.Array, size: int) -> jax.Array:
    """The same for every domain, as far as its count goes; ties go to the lowest index.

    `counts`, `size` and the budgets are as for `proportional`.
    """
    counts = _check(counts, size)
    return _apportion(counts, jnp.ones(counts.shape, jnp.float32), size=operator.index(size))


def fixed(counts: jax.Array, size: int, shares: jax.Array) -> jax.Array:
    """Shares set by hand; `counts`, `size` and the budgets are as for `proportional`.

    `shares` is f32[P], >= 0, of any positive sum. A domain with share 0 gets picks only when all
    the others are exhausted.
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
    return _apportion(counts, jnp.asarray(shares, jnp.float32), size=operator.index(size))


def temperature(counts: jax.Array, size: int, tau: jax.Array | float) -> jax.Array:
    """Shares proportional to counts^tau: tau = 1 is proportional but for ties, tau = 0 uniform.

    `tau` is f32[], finite; `counts`, `size` and the budgets are as for `proportional`.
    """
    counts = _check(counts, size)
    tau = check_scalar("tau", tau, least=-np.inf)
    return _temperature(counts, tau, size=operator.index(size))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CurriculumState:
    """The memory of the anchors' losses.

    Attributes:
      losses: f32[P]; every domain's last sound anchor loss, nan before the first.
      gains: f32[P]; moving average of the relative gains; 0 before the first.
      weights: f32[P] in [0, 1]; weight of the gains that the average has seen, 0 before the first.
        The average is over these alone: it does not start from a guess.
    """

    losses: jax.Array
    gains: jax.Array
    weights: jax.Array


def curriculum_start(domain_count: int) -> CurriculumState:
    """The state before anything was seen, of `domain_count` >= 1 domains."""
    if domain_count < 1:
        raise ValueError(f"domain_count must be at least 1, got {domain_count}; count the domains.")
    zeros_P = jnp.zeros((domain_count,), jnp.float32)
    # Arrays of their own, so that a step may take all their buffers.
    return CurriculumState(jnp.full_like(zeros_P, jnp.nan), zeros_P, jnp.zeros_like(zeros_P))


def curriculum_update(
    state: CurriculumState, anchor_losses: jax.Array, decay: jax.Array | float = 0.9
) -> CurriculumState:
    """The state after one step's anchor losses.

    Args:
      state: of P domains.
      anchor_losses: f32[P], >= 0; mean loss of each domain's anchors. A domain whose entry is not
        finite is left as it was: it had no sound anchor.
      decay: f32[] in [0, 1); weight of the past in the moving average.

    Returns:
      The next state.

    Raises:
      ValueError: shapes that disagree; where concrete: negative losses, or a decay out of range.
    """
    if np.shape(anchor_losses) != state.losses.shape:
        raise ValueError(
            f"anchor_losses must have shape {state.losses.shape} like the state, got "
            f"{np.shape(anchor_losses)}; give one mean loss per domain, nan for none."
        )
    if is_concrete(anchor_losses) and np.any(np.asarray(anchor_losses) < 0.0):
        raise ValueError(
            f"anchor_losses must be >= 0, got {np.asarray(anchor_losses).tolist()}; relative gains "
            "need a loss that is bounded below by 0."
        )
    rest = 1.0 - check_scalar("decay", decay, most=1.0, without=1.0)
    now_P = jnp.asarray(anchor_losses, jnp.float32)
    sound_P = jnp.isfinite(now_P)
    compared_P = sound_P & jnp.isfinite(state.losses)
    larger_P = jnp.maximum(now_P, state.losses)
    positive_P = compared_P & (larger_P > 0.0)
    gain_P = jnp.where(
        positive_P, (state.losses - now_P) / jnp.where(positive_P, larger_P, 1.0), 0.0
    )
    weights_P = state.weights + rest * (1.0 - state.weights)
    gains_P = state.gains + rest / weights_P * (gain_P - state.gains)
    return CurriculumState(
        losses=jnp.where(sound_P, now_P, state.losses),
        gains=jnp.where(compared_P, gains_P, state.gains),
        weights=jnp.where(compared_P, weights_P, state.weights),
    )


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

    Before any gain was seen they are `proportional`. From then on a domain has at least
    min(c_p, floor(floor * size)) picks, and if all domains hold as many candidates, the one that
    improves least has no fewer picks than `proportional` gives it.

    Args:
      counts, size: as for `proportional`.
      state: from `curriculum_start` and, every step, `curriculum_update`.
      blend: f32[] in [0, 1]; weight of the tilted shares against the proportional ones.
      floor: f32[] in [0, 1/P]; smallest share of a domain that has candidates.
      sharpness: f32[], >= 0; how much the gains tilt the shares. The shares per candidate of two
        domains differ by a factor of exp(2 sharpness) at most.

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
    domains = counts.shape[0]
    if state.gains.shape != counts.shape:
        raise ValueError(
            f"state must be of {domains} domains like counts, got {state.gains.shape[0]}; "
            f"begin with curriculum_start({domains})."
        )
    if is_concrete(floor) and np.all(np.asarray(floor) * domains > 1.0 + 1e-6):
        raise ValueError(
            f"floor must be at most 1/P = {1 / domains:g}, got {floor}; "
            f"{domains} domains cannot each have a larger share."
        )
    return _curriculum(
        counts,
        state,
        check_scalar("blend", blend, most=1.0),
        check_scalar("floor", floor, most=1.0),
        check_scalar("sharpness", sharpness),
        size=operator.index(size),
    )


@jit("size")
def _proportional(counts: jax.Array, *, size: int) -> jax.Array:
    total = jnp.maximum(jnp.sum(counts, dtype=jnp.int32), 1)
    quotient, remainder = jnp.zeros_like(counts), jnp.zeros_like(counts)
    # size * counts may not fit 32 bits: long division, one bit of `size` at a time.
    for bit in bin(size)[2:]:
        remainder = 2 * remainder + (counts if bit == "1" else 0)
        carry = remainder // total
        quotient, remainder = 2 * quotient + carry, remainder - carry * total
    # One seat more for each of the largest remainders, as many as are left, ties to the lowest
    # index.
    left = size - jnp.sum(quotient, dtype=jnp.int32)
    order = jnp.argsort(-remainder, stable=True)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=order.dtype))
    return jnp.where(total <= size, counts, quotient + (rank < left))


@jit("size")
def _temperature(counts: jax.Array, tau: jax.Array, *, size: int) -> jax.Array:
    logarithm = jnp.log(jnp.maximum(counts, 1).astype(jnp.float32))
    exponent = jnp.where(counts > 0, tau * logarithm, -jnp.inf)
    return _apportion(counts, jnp.exp(exponent - jnp.max(exponent, initial=0.0)), size=size)


@jit("size")
def _curriculum(
    counts: jax.Array,
    state: CurriculumState,
    blend: jax.Array,
    floor: jax.Array,
    sharpness: jax.Array,
    *,
    size: int,
) -> jax.Array:
    # A domain without a gain yet counts as an average one.
    seen_P = state.weights > 0.0
    mean = jnp.sum(jnp.where(seen_P, state.gains, 0.0)) / jnp.maximum(jnp.sum(seen_P), 1)
    gain_P = jnp.where(seen_P, state.gains, mean)
    largest = jnp.max(jnp.abs(gain_P))
    relative_P = gain_P / jnp.where(largest > 0.0, largest, 1.0)
    held_P = counts.astype(jnp.float32)
    # The least gain is taken off first, so that no exponential overflows.
    tilted_P = held_P * jnp.exp(-sharpness * (relative_P - jnp.min(relative_P)))
    held_P, tilted_P = (
        values_P / jnp.where(jnp.sum(values_P) > 0.0, jnp.sum(values_P), 1.0)
        for values_P in (held_P, tilted_P)
    )
    mixed_P = (1.0 - blend) * held_P + blend * tilted_P
    shares_P = _raised(mixed_P, jnp.where(counts > 0, floor, 0.0))
    lowest_P = jnp.minimum(counts, jnp.floor(floor * size + _ROUNDING).astype(jnp.int32))
    seats_P = _apportion(counts, shares_P, lowest_P, size=size)
    return jnp.where(jnp.any(seen_P), seats_P, _proportional(counts, size=size))


def _raised(shares_P: jax.Array, floor_P: jax.Array) -> jax.Array:
    """max(floor_p, level * share_p), the level such that the sum stays 1."""

    def lower(_: jax.Array, level: jax.Array) -> jax.Array:
        held_up = level * shares_P <= floor_P
        free = jnp.sum(jnp.where(held_up, 0.0, shares_P))
        left = 1.0 - jnp.sum(jnp.where(held_up, floor_P, 0.0))
        return jnp.where(free > 0.0, left / jnp.where(free > 0.0, free, 1.0), level)

    # The level only falls, and every fall lifts at least one domain more onto its floor.
    start = tie(jnp.ones((), jnp.float32), shares_P, floor_P)
    level = jax.lax.fori_loop(0, shares_P.shape[0], lower, start)
    return jnp.maximum(floor_P, level * shares_P)


@jit("size")
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
    goal = jnp.minimum(size, jnp.sum(counts, dtype=jnp.int32))

    def settle(seats: jax.Array) -> jax.Array:
        """Moves one of the seats that flooring left, to the largest remainder."""
        short = jnp.sum(seats, dtype=jnp.int32) < goal
        able = jnp.where(short, seats < counts, seats > lowest)
        need = jnp.where(short, quota - seats, seats - quota)
        chosen = jnp.argmax(jnp.where(able, need, -jnp.inf))
        return seats.at[chosen].add(jnp.where(short, 1, -1))

    return jax.lax.while_loop(
        lambda seats: jnp.sum(seats, dtype=jnp.int32) != goal,
        settle,
        jnp.clip(jnp.floor(quota).astype(jnp.int32), lowest, counts),
    )


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


def _check(counts: jax.Array | np.ndarray, size: int) -> jax.Array:
    """Checks counts and size, and answers the counts as i32[P]."""
    check_count(size)
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
