"""The second-order model of one update's effect on the anchors' loss."""

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.rounds import play
from partitionsel_jax.selection.utilities.utility import Solution, unweighted


def taylor(pool: Pool, options: Options) -> Solution:
    """eta sum_S s_i - eta^2 sum_{i<j in S} K_ij, with eta = step_scale (GREATS; ID).

    A pick is worth eta s_i - eta^2 sum_{j in S} K_ij, which may be negative; the last picks of a
    budget often are. As eta goes to 0 the picks become those of `alignment`.
    """
    eta = options.step_scale

    def score(redundancy_N: jax.Array) -> jax.Array:
        return eta * pool.alignment - eta**2 * redundancy_N

    def add(
        redundancy_N: jax.Array, indices: jax.Array, slot: jax.Array, pick: jax.Array
    ) -> jax.Array:
        del indices, slot
        return redundancy_N + jnp.where(pick >= 0, pool.gram.row(pick), 0.0)

    rounds = play(jnp.zeros_like(pool.alignment), score, add, pool, options)
    return unweighted(rounds.indices, rounds.gains)
