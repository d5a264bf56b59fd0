"""The partition matroid: couplings, contraction by picks, the rules that pick, rounds, best base.

A *coupling* maps a pool to the pool that the solver sees: how its domains share one utility and one
set of budgets. Every one has the signature `coupling(pool, size) -> Pool`.

A *rule* says which feasible candidate a round adds. Every one has the signature
`rule(residual, matroid, uniform) -> i32[]`: `residual` f32[N] is the gradient of the utility,
`uniform` f32[] one draw from [0, 1). The answer is a candidate's index, or -1 if none is feasible.
"""

import dataclasses
from collections.abc import Callable
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.arrays import put, take, tie
from partitionsel_jax.selection.problem import Options, Pool

State = TypeVar("State")

# The least i32.
_LOWEST = -(2**31)


def joint(pool: Pool, size: int) -> Pool:
    """One utility over the whole pool under per-domain budgets: PartitionSel."""
    return pool


def independent(pool: Pool, size: int) -> Pool:
    """Each domain on its own, same budgets: cross-domain Gram entries become 0 (IWD, ID)."""
    count = pool.budgets.shape[0]
    return dataclasses.replace(
        pool, gram=pool.gram.split(pool.domains, count), groups=pool.domains, group_count=count
    )


def agnostic(pool: Pool, size: int) -> Pool:
    """One budget of `size` and one domain: the uniform matroid (GradMatch, GREATS)."""
    return dataclasses.replace(
        pool,
        domains=jnp.zeros_like(pool.domains),
        budgets=jnp.full((1,), size, jnp.int32),
    )


COUPLINGS = {"joint": joint, "independent": independent, "agnostic": agnostic}

# Couplings whose picks are limited by `Problem.budgets`.
BUDGETED = frozenset({"joint", "independent"})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matroid:
    """The matroid contracted by the picks so far.

    Attributes:
      domains: i32[N] in [0, P).
      remaining: i32[P]; picks that each domain may still take.
      open: bool[N]; candidates whose addition keeps the set independent.
    """

    domains: jax.Array
    remaining: jax.Array
    open: jax.Array


def before_picks(domains: jax.Array, budgets: jax.Array, candidates: jax.Array) -> Matroid:
    """The matroid before the first pick; `candidates` bool[N] are its elements."""
    return Matroid(domains, budgets, candidates & (budgets[domains] > 0))


def add(matroid: Matroid, pick: jax.Array) -> Matroid:
    """Contracts by `pick`, i32[] in [-1, N); -1 changes nothing."""
    domain = jnp.where(pick >= 0, take(matroid.domains, pick), -1)
    taken_P = jnp.arange(matroid.remaining.shape[0]) == domain
    remaining = matroid.remaining - taken_P
    exhausted = (matroid.domains == domain) & (take(remaining, domain) <= 0)
    chosen = jnp.arange(matroid.domains.shape[0]) == pick
    return dataclasses.replace(
        matroid, remaining=remaining, open=matroid.open & ~chosen & ~exhausted
    )


def greedy(residual: jax.Array, matroid: Matroid, uniform: jax.Array) -> jax.Array:
    """The feasible candidate of greatest residual; ties go to the lowest index."""
    score = jnp.where(matroid.open, residual, -jnp.inf)
    # Two plain reductions are faster than `argmax` on a CPU.
    size = score.shape[0]
    first = jnp.where(score == jnp.max(score), jnp.arange(size, dtype=jnp.int32), size)
    pick = jnp.min(first)
    return jnp.where((pick < size) & take(matroid.open, pick), pick, -1)


def residual_random(residual: jax.Array, matroid: Matroid, uniform: jax.Array) -> jax.Array:
    """Uniform over a maximum-weight base of the contracted matroid (paper, Algorithm 2).

    The base is every domain's best `remaining` open candidates by residual, ties to the lowest
    index. Its elements are numbered domain by domain; the one whose number was drawn is found in
    its own domain, so that the base itself is never laid out.
    """
    iota_P = jnp.arange(matroid.remaining.shape[0])
    member_NxP = (matroid.domains[:, None] == iota_P[None, :]) & matroid.open[:, None]
    share_P = jnp.minimum(matroid.remaining, jnp.sum(member_NxP, axis=0, dtype=jnp.int32))
    seen_P = jnp.cumsum(share_P)
    total = seen_P[-1]
    drawn = jnp.minimum(jnp.floor(uniform * total).astype(jnp.int32), total - 1)
    domain = jnp.argmax(seen_P > drawn)
    rank = drawn - (seen_P[domain] - share_P[domain])

    # As i32 in the order of the finite f32 residuals: integers sort many times faster on a CPU.
    # Zeros of either sign tie.
    bits = jax.lax.bitcast_convert_type(jnp.where(residual == 0.0, 0.0, residual), jnp.int32)
    sortable = jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)
    score = jnp.where(matroid.open & (matroid.domains == domain), sortable, _LOWEST)
    threshold = jax.lax.sort(score, is_stable=False)[score.shape[0] - 1 - rank]
    ties = jnp.cumsum(score == threshold)
    pick = jnp.argmax(ties > rank - jnp.sum(score > threshold)).astype(jnp.int32)
    return jnp.where(total > 0, pick, -1)


RULES = {"greedy": greedy, "residual_random": residual_random}

# Rules that draw from `key`.
RANDOMISED = frozenset({"residual_random"})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rounds(Generic[State]):
    """A partial selection.

    Attributes:
      indices: i32[K]; the picks so far, -1 in empty slots.
      gains: f32[K]; every pick's score when it was picked, 0 in empty slots.
      matroid: contracted by the picks.
      state: whatever the solver knows of its picks.
    """

    indices: jax.Array
    gains: jax.Array
    matroid: Matroid
    state: State


def play(
    state: State,
    score: Callable[[State], jax.Array],
    add_pick: Callable[[State, jax.Array, jax.Array, jax.Array], State],
    pool: Pool,
    options: Options,
) -> Rounds[State]:
    """Plays `options.size` rounds by `options.rule`: score the pool, pick, add the pick.

    Args:
      state: of no picks.
      score: state -> f32[N], finite; what adding each candidate is worth.
      add_pick: (state, indices i32[K], slot i32[], pick i32[]) -> state with candidate `pick` in
        `slot`; `indices` hold the pick already. -1 for no pick must change nothing.
      pool: with N candidates.
      options: `size`, `rule`, and `key` if the rule draws.

    Returns:
      The selection after the last round. A round in which no candidate is feasible leaves its slot
      empty; one in which no candidate has a positive score adds the best one all the same.
    """
    size = options.size
    rule = RULES[options.rule]
    random = options.rule in RANDOMISED
    uniform_K = options.draw((size,)) if random else jnp.zeros((size,), jnp.float32)
    start = Rounds(
        indices=jnp.full((size,), -1, jnp.int32),
        gains=jnp.zeros((size,), jnp.float32),
        matroid=before_picks(pool.domains, pool.budgets, pool.candidates),
        state=state,
    )

    def one_round(slot: jax.Array, rounds: Rounds[State]) -> Rounds[State]:
        score_N = score(rounds.state)
        pick = rule(score_N, rounds.matroid, uniform_K[slot])
        indices = put(rounds.indices, slot, pick)
        return Rounds(
            indices=indices,
            gains=put(rounds.gains, slot, jnp.where(pick >= 0, take(score_N, pick), 0.0)),
            matroid=add(rounds.matroid, pick),
            state=add_pick(rounds.state, indices, slot, pick),
        )

    played: Rounds[State] = jax.lax.fori_loop(0, size, one_round, tie(start, pool))
    return played


def best_base(matroid: Matroid, score: jax.Array, size: int) -> jax.Array:
    """The independent set of at most `size` elements of greatest total score, best first.

    Args:
      matroid: with N elements.
      score: f32[N]; ties go to the lowest index.
      size: K <= N.

    Returns:
      i32[K]; candidate indices, -1 where nothing feasible was left.
    """
    domain_count = matroid.remaining.shape[0]
    iota_N = jnp.arange(score.shape[0], dtype=jnp.int32)
    group = jnp.where(matroid.open, matroid.domains, domain_count)
    group, falling, order = jax.lax.sort((group, -score, iota_N), num_keys=2, is_stable=True)
    first = jnp.concatenate([jnp.ones((1,), bool), group[1:] != group[:-1]])
    rank_in_domain = iota_N - jax.lax.cummax(jnp.where(first, iota_N, 0))
    beyond = rank_in_domain >= jnp.append(matroid.remaining, 0)[group]
    beyond, _, ranked = jax.lax.sort((beyond, falling, order), num_keys=3)
    return jnp.where(beyond[:size], -1, ranked[:size])
