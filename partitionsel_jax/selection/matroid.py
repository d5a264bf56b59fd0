"""The partition matroid: which candidates may still be added, and the best base by a score."""

import dataclasses

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.indexing import take
from partitionsel_jax.selection.problem import Pool


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


def from_pool(pool: Pool) -> Matroid:
    """The matroid before the first pick."""
    open_N = pool.candidates & (pool.budgets[pool.domains] > 0)
    return Matroid(domains=pool.domains, remaining=pool.budgets, open=open_N)


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
