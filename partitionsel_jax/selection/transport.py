"""Fair transport: equal supplies at the picks, equal demands at the anchors (UniPROT).

Each of at most K picks supplies up to 1/K and each of A anchors takes up to 1/A, so that no anchor
can be served by all and no pick can serve all. With similarities c and entropy epsilon,

    F(S) = max  <plan, c> - epsilon sum plan (log(plan K A) - 1)
           over plan >= 0 with row sums <= 1/K and column sums <= 1/A.

The plan is x_i E_ia y_a with E = exp(c / epsilon) / (K A). Scaling rows and columns by turns (each
only ever down from 1, since supplies and demands are bounds) is ascent on the dual, whose value
F is read off.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.arrays import tie
from partitionsel_jax.selection.matroid import play
from partitionsel_jax.selection.problem import Options, Pool, Solution, unweighted

# epsilon, relative to the largest similarity (in size): picks do not depend on the scale.
ENTROPY = 0.1
# Scalings stop when no y changes by more than this, relatively, or after so many. The value is
# least at the right y, and so errs by the square of what is missing.
TOLERANCE = 1e-3
MAX_SCALINGS = 200


class _Picks(NamedTuple):
    """The picks' rows of E and what they reach.

    Attributes:
      kernel: f32[K, A]; 0 in empty slots.
      groups: i32[K].
      columns: f32[G, A]; y of every group.
      value: f32[G]; F of every group's picks, over epsilon.
    """

    kernel: jax.Array
    groups: jax.Array
    columns: jax.Array
    value: jax.Array


def fair_transport(pool: Pool, options: Options) -> Solution:
    """F above, greedily: every candidate's gain is the difference of two transport problems.

    With `independent` coupling every domain's picks serve the anchors on their own.
    """
    similarity_NxA = pool.anchor_similarity
    assert similarity_NxA is not None  # `select` has seen to it
    assert pool.anchors is not None
    size, anchors = options.size, jnp.maximum(jnp.sum(pool.anchors), 1)
    largest = jnp.max(jnp.abs(similarity_NxA), initial=0.0)
    epsilon = ENTROPY * jnp.where(largest > 0.0, largest, 1.0)
    kernel_NxA = jnp.exp(similarity_NxA / epsilon) / (size * anchors)
    # Nothing goes to a broken anchor.
    kernel_NxA = jnp.where(pool.anchors[None, :], kernel_NxA, 0.0)
    supply, demand = 1.0 / size, 1.0 / anchors

    def score(picks: _Picks) -> jax.Array:
        columns_NxA = picks.columns[pool.groups]
        _, value_N = _transport(picks, kernel_NxA, pool.groups, columns_NxA, supply, demand)
        return epsilon * (value_N - picks.value[pool.groups])

    def add(picks: _Picks, indices: jax.Array, slot: jax.Array, pick: jax.Array) -> _Picks:
        filled, group = pick >= 0, pool.groups[pick]
        row_1xA = kernel_NxA[pick][None, :]
        columns_1xA, value_1 = _transport(
            picks, row_1xA, group[None], picks.columns[group][None, :], supply, demand
        )
        return _Picks(
            kernel=picks.kernel.at[slot].set(jnp.where(filled, row_1xA[0], 0.0)),
            groups=picks.groups.at[slot].set(group),
            columns=picks.columns.at[group].set(
                jnp.where(filled, columns_1xA[0], picks.columns[group])
            ),
            value=picks.value.at[group].set(jnp.where(filled, value_1[0], picks.value[group])),
        )

    start = _Picks(
        kernel=jnp.zeros((size, similarity_NxA.shape[1]), jnp.float32),
        groups=jnp.zeros((size,), jnp.int32),
        columns=jnp.ones((pool.group_count, similarity_NxA.shape[1]), jnp.float32),
        value=jnp.zeros((pool.group_count,), jnp.float32),
    )
    rounds = play(start, score, add, pool, options)
    return unweighted(rounds.indices, rounds.gains)


def _transport(
    picks: _Picks,
    kernel_BxA: jax.Array,
    groups_B: jax.Array,
    columns_BxA: jax.Array,
    supply: float,
    demand: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Solves B transport problems, each of the picks of one group and one row more.

    `kernel_BxA` are the additional rows of E, `groups_B` their groups, `columns_BxA` y, from which
    the scalings start, `supply` and `demand` 1/K and 1/A. Returns y, f32[B, A], and F over epsilon,
    f32[B].
    """
    together_BxK = groups_B[:, None] == picks.groups[None, :]

    def rows(columns_BxA: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x of the picks f32[B, K] and of the additional row f32[B], given y."""
        served_BxK = columns_BxA @ picks.kernel.T
        served_B = jnp.sum(columns_BxA * kernel_BxA, axis=1)
        return _bounded(served_BxK, supply) * together_BxK, _bounded(served_B, supply)

    def columns(rows_BxK: jax.Array, row_B: jax.Array) -> jax.Array:
        return rows_BxK @ picks.kernel + row_B[:, None] * kernel_BxA

    def scale(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        columns_BxA, _, iteration = carry
        renewed_BxA = _bounded(columns(*rows(columns_BxA)), demand)
        change = jnp.max(jnp.abs(renewed_BxA / columns_BxA - 1.0), initial=0.0)
        return renewed_BxA, change, iteration + 1

    start = (columns_BxA, jnp.asarray(jnp.inf, jnp.float32), jnp.int32(0))
    columns_BxA, _, _ = jax.lax.while_loop(
        lambda carry: (carry[1] > TOLERANCE) & (carry[2] < MAX_SCALINGS),
        scale,
        tie(start, picks, kernel_BxA, groups_B),
    )
    rows_BxK, row_B = rows(columns_BxA)
    moved_B = jnp.sum(columns(rows_BxK, row_B) * columns_BxA, axis=1)
    positive_BxK = jnp.where(rows_BxK > 0.0, rows_BxK, 1.0)
    price_B = jnp.sum(jnp.where(together_BxK, -jnp.log(positive_BxK), 0.0), axis=1)
    value_B = supply * (price_B - jnp.log(row_B))
    value_B -= demand * jnp.sum(jnp.log(columns_BxA), axis=1)
    return columns_BxA, value_B + moved_B


def _bounded(sums: jax.Array, bound: jax.Array | float) -> jax.Array:
    """The scaling in (0, 1] that brings `sums` >= 0 down to `bound` where they exceed it."""
    return bound / jnp.maximum(sums, bound)
