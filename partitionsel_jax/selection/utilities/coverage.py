"""Coverage: every point is served by the most similar pick, and by nothing until there is one.

Similarities below 0 therefore count as 0, which makes both functions monotone and submodular.
"""

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.gram import DenseGram
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.rounds import play
from partitionsel_jax.selection.utilities.utility import Solution, unweighted


def facility_location(pool: Pool, options: Options) -> Solution:
    """sum_j max(0, max_{i in S} K_ij) over the whole pool (CRAIG, CoLM)."""
    assert isinstance(pool.gram, DenseGram)  # `select` has seen to it
    similarity_NxN = pool.gram.masked()

    def score(cover_N: jax.Array) -> jax.Array:
        return jnp.sum(jnp.maximum(similarity_NxN - cover_N[None, :], 0.0), axis=1)

    def add(cover_N: jax.Array, indices: jax.Array, slot: jax.Array, pick: jax.Array) -> jax.Array:
        del indices, slot
        return jnp.maximum(cover_N, jnp.where(pick >= 0, similarity_NxN[pick], 0.0))

    rounds = play(jnp.zeros_like(pool.alignment), score, add, pool, options)
    return unweighted(rounds.indices, rounds.gains)


def anchor_coverage(pool: Pool, options: Options) -> Solution:
    """sum_a max(0, max_{i in S} sim_ia) over the anchors.

    With `independent` coupling every domain covers the anchors on its own, and the sums add up.
    """
    similarity_NxA = pool.anchor_similarity
    assert similarity_NxA is not None  # `select` has seen to it

    def score(cover_GxA: jax.Array) -> jax.Array:
        return jnp.sum(jnp.maximum(similarity_NxA - cover_GxA[pool.groups], 0.0), axis=1)

    def add(
        cover_GxA: jax.Array, indices: jax.Array, slot: jax.Array, pick: jax.Array
    ) -> jax.Array:
        del indices, slot
        row_A = jnp.where(pick >= 0, similarity_NxA[pick], 0.0)
        return cover_GxA.at[pool.groups[pick]].max(row_A)

    start = jnp.zeros((pool.group_count, similarity_NxA.shape[1]), jnp.float32)
    rounds = play(start, score, add, pool, options)
    return unweighted(rounds.indices, rounds.gains)
