"""Orthogonal matching pursuit under the partition matroid.

Each of k rounds adds one candidate by the rule, refits the weights on the support exactly, and
renews the gradient r = s - (K + ridge I) w of the utility over the pool. Only the Gram rows of the
picks are touched, so a round costs O(k N) beside the refit's O(k^2).
"""

import dataclasses

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import matroid as matroids
from partitionsel_jax.selection import refit
from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.matroid import Matroid
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.refit import Support
from partitionsel_jax.selection.rules import RANDOMISED, RULES


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pursuit:
    """A partial selection.

    Attributes:
      indices: i32[K]; the picks so far, -1 in empty slots.
      rows: f32[K, N]; rows of K + ridge I of the picks, 0 in empty slots.
      residual: f32[N]; gradient of the utility at the weights.
      support: weights and refit state.
      matroid: contracted by the picks.
    """

    indices: jax.Array
    rows: jax.Array
    residual: jax.Array
    support: Support
    matroid: Matroid


def pursue(pool: Pool, options: Options) -> Pursuit:
    """Runs all the rounds.

    Args:
      pool: with N candidates.
      options: `size` picks, by `rule`, which draws from `key` if it is a random one.

    Returns:
      The selection after `size` rounds. A round in which no candidate is feasible leaves its slot
      empty; one in which no candidate has a positive residual adds the best one with weight 0.
    """
    size = options.size
    scale = jnp.max(jnp.abs(pool.alignment))
    rule = RULES[options.rule]
    random = options.rule in RANDOMISED
    uniform_K = options.draw((size,)) if random else jnp.zeros((size,), jnp.float32)
    start = Pursuit(
        indices=jnp.full((size,), -1, jnp.int32),
        rows=jnp.zeros((size, pool.alignment.shape[0]), jnp.float32),
        residual=pool.alignment,
        support=refit.empty_support(size),
        matroid=matroids.from_pool(pool),
    )

    def add_one(slot: jax.Array, pursuit: Pursuit) -> Pursuit:
        pick = rule(pursuit.residual, pursuit.matroid, uniform_K[slot])
        pursuit = fill(pursuit, pool, options.ridge, slot, pick)
        pursuit = solve(pursuit, pool, scale)
        return dataclasses.replace(pursuit, matroid=matroids.add(pursuit.matroid, pick))

    return jax.lax.fori_loop(0, size, add_one, tie(start, pool))


def fill(
    pursuit: Pursuit, pool: Pool, ridge: jax.Array, slot: jax.Array, pick: jax.Array
) -> Pursuit:
    """Puts candidate `pick` (i32[], -1 for none) into `slot`, whose weight must be 0."""
    filled = pick >= 0
    iota_N = jnp.arange(pool.alignment.shape[0])
    row_N = jnp.where(filled, pool.gram[pick] + jnp.where(iota_N == pick, ridge, 0.0), 0.0)
    indices = pursuit.indices.at[slot].set(pick)
    row_K = jnp.where(indices >= 0, row_N[indices], 0.0)
    support = pursuit.support
    support = dataclasses.replace(
        support,
        gram=support.gram.at[slot].set(row_K).at[:, slot].set(row_K),
        target=support.target.at[slot].set(jnp.where(filled, pool.alignment[pick], 0.0)),
    )
    return dataclasses.replace(
        pursuit, indices=indices, rows=pursuit.rows.at[slot].set(row_N), support=support
    )


def solve(pursuit: Pursuit, pool: Pool, scale: jax.Array) -> Pursuit:
    """Refits the weights on the support and renews the residual over the pool."""
    support = refit.refit(pursuit.support, scale)
    residual = pool.alignment - support.weights @ pursuit.rows
    return dataclasses.replace(pursuit, support=support, residual=residual)
