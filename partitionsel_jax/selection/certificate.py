"""Certificate of optimality: how much a selection can at most have lost to the best one.

f(S) / f(all N) <= f(S) / f(S*), because dropping the matroid can only raise the optimum. f(all N)
is a convex problem; what is used is an upper bound on it, so that stopping early makes the
certificate smaller and never wrong.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.problem import Pool

# One product with K each; some 60 settle a well-conditioned pool from a selection's weights.
MAX_ITERATIONS = 200
# Relative gap between the bound and the utility reached, below which the bound is sharp enough.
GAP = 1e-5


class _Ascent(NamedTuple):
    weights: jax.Array
    residual: jax.Array
    step: jax.Array
    value: jax.Array
    bound: jax.Array
    iteration: jax.Array


def certify(
    pool: Pool, indices: jax.Array, weights: jax.Array, utility: jax.Array, ridge: jax.Array
) -> jax.Array:
    """Lower bound on f(S) / f(S*).

    Args:
      pool: with N candidates, after the coupling.
      indices: i32[K]; the picks, -1 for none.
      weights: f32[K]; theirs, from which the ascent starts.
      utility: f32[]; f(S).
      ridge: f32[].

    Returns:
      f32[] in [0, 1]; 1 where the optimum is 0.
    """
    size = pool.alignment.shape[0]
    start = jnp.zeros((size + 1,), jnp.float32).at[indices].add(weights)[:size]
    bound = upper_bound(pool, start, ridge)
    ratio = utility / jnp.where(bound > 0.0, bound, 1.0)
    return jnp.where(bound > 0.0, jnp.clip(ratio, 0.0, 1.0), 1.0)


def upper_bound(pool: Pool, weights: jax.Array, ridge: jax.Array) -> jax.Array:
    """Upper bound on max U(v) over v >= 0 supported anywhere in the pool.

    Projected gradient ascent with Barzilai-Borwein steps. As U is concave,
    U(v) <= U(w) + <r, v - w> at every w with gradient r; with sum(v) <= 2 sum(w) that is at most
    U(w) - <r, w> + 2 max(r, 0) sum(w). The smallest such bound met on the way is kept.

    Args:
      pool: with N candidates.
      weights: f32[N], >= 0; where the ascent starts.
      ridge: f32[].

    Returns:
      f32[].
    """
    largest = jnp.max(pool.gram.diagonal()) + ridge
    first_step = 1.0 / jnp.where(largest > 0.0, largest, 1.0)

    def gradient(weights_N: jax.Array) -> jax.Array:
        return pool.alignment - pool.gram.product(weights_N) - ridge * weights_N

    def ascend(state: _Ascent) -> _Ascent:
        weights_N = jnp.maximum(state.weights + state.step * state.residual, 0.0)
        residual = gradient(weights_N)
        moved, turned = weights_N - state.weights, state.residual - residual
        curvature = jnp.dot(moved, turned)
        # Long and short steps by turns: the long one alone may cycle on a bounded problem.
        even = state.iteration % 2 == 0
        step = jnp.where(even, jnp.dot(moved, moved), curvature)
        step = step / jnp.where(even, curvature, jnp.dot(turned, turned))
        step = jnp.where(curvature > 0.0, step, first_step)
        value, bound = _value_and_bound(pool, weights_N, residual)
        bound = jnp.minimum(state.bound, bound)
        return _Ascent(weights_N, residual, step, value, bound, state.iteration + 1)

    residual = gradient(weights)
    value, bound = _value_and_bound(pool, weights, residual)
    # At w = 0 the bound says nothing yet unless no gradient is positive.
    bound = jnp.where(jnp.any(weights > 0.0) | (jnp.max(residual) <= 0.0), bound, jnp.inf)
    start = _Ascent(weights, residual, first_step, value, bound, jnp.int32(0))
    final = jax.lax.while_loop(
        lambda state: (
            (state.iteration < MAX_ITERATIONS) & (state.bound - state.value > GAP * state.value)
        ),
        ascend,
        tie(start, pool),
    )
    return final.bound


def _value_and_bound(
    pool: Pool, weights: jax.Array, residual: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """U(w), and the bound on the optimum that its gradient gives."""
    value = 0.5 * jnp.dot(weights, pool.alignment + residual)
    heaviest = 2.0 * jnp.sum(weights)
    slack = heaviest * jnp.maximum(jnp.max(residual), 0.0) - jnp.dot(residual, weights)
    return value, value + slack
