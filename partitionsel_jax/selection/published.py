"""The published solver of PartitionSel, for comparison and for reproductions.

Algorithm 2 of arXiv 2606.07954 as its code runs it: after every pick the weights are found anew by
a fixed number of accelerated projected gradient steps from zero, over all N candidates with a mask
on the support. It is written with care for speed: one product with K per step, and no output on the
way. The step's length, on which the paper is silent, is the inverse of K's largest eigenvalue.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.gram import Product
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.pursuit import Pursuit
from partitionsel_jax.selection.refit import Support, empty_support
from partitionsel_jax.selection.rounds import Rounds, play

# Gradient steps after every pick.
STEPS = 128
# Products with K that estimate its largest eigenvalue, and the margin on what they find.
POWER_ITERATIONS = 30
MARGIN = 1.05


class _Weights(NamedTuple):
    weights: jax.Array
    residual: jax.Array


def published(pool: Pool, options: Options) -> Rounds[Pursuit]:
    """Runs all the rounds; `options.rule` is `residual_random` in the paper.

    Args:
      pool: with N candidates.
      options: as for `pursuit.pursue`, whose result has the same form.

    Returns:
      The selection after `size` rounds, with the weights that the steps reached.
    """
    multiply = pool.gram.product()

    def product(weights_N: jax.Array) -> jax.Array:
        return multiply(weights_N) + options.ridge * weights_N

    step = 1.0 / _largest_eigenvalue(product, pool.alignment)
    iota_N = jnp.arange(pool.alignment.shape[0])

    def add(state: _Weights, indices: jax.Array, slot: jax.Array, pick: jax.Array) -> _Weights:
        del state, slot, pick
        support_N = jnp.any(indices[:, None] == iota_N[None, :], axis=0)
        weights_N = _accelerated(product, pool.alignment, support_N, step)
        return _Weights(weights_N, pool.alignment - product(weights_N))

    start = _Weights(jnp.zeros_like(pool.alignment), pool.alignment)
    rounds = play(start, lambda state: state.residual, add, pool, options)
    return Rounds(
        indices=rounds.indices,
        gains=rounds.gains,
        matroid=rounds.matroid,
        state=_as_pursuit(rounds, pool, options),
    )


def _accelerated(
    product: Product, alignment_N: jax.Array, support_N: jax.Array, step: jax.Array
) -> jax.Array:
    """Weights f32[N] after `STEPS` steps of Nesterov's method with projection (FISTA)."""

    def ascend(_: jax.Array, carry: tuple) -> tuple:
        weights_N, ahead_N, momentum = carry
        gradient_N = alignment_N - product(ahead_N)
        moved_N = jnp.where(support_N, jnp.maximum(ahead_N + step * gradient_N, 0.0), 0.0)
        grown = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * momentum**2))
        return moved_N, moved_N + (momentum - 1.0) / grown * (moved_N - weights_N), grown

    zeros_N = jnp.zeros_like(alignment_N)
    start = tie((zeros_N, zeros_N, jnp.ones((), jnp.float32)), alignment_N, support_N, step)
    return jax.lax.fori_loop(0, STEPS, ascend, start)[0]


def _largest_eigenvalue(product: Product, alignment_N: jax.Array) -> jax.Array:
    """About the largest eigenvalue of K + ridge I, by power iteration; 1 where K is 0."""

    def multiply(_: jax.Array, vector_N: jax.Array) -> jax.Array:
        product_N = product(vector_N)
        return product_N / jnp.maximum(jnp.max(jnp.abs(product_N)), jnp.finfo(jnp.float32).tiny)

    # Uneven, so that it is orthogonal to no eigenvector that symmetry singles out.
    start = 1.0 + 0.1 * jnp.cos(jnp.arange(alignment_N.shape[0], dtype=jnp.float32))
    tied = tie(start, alignment_N, product(start))
    vector_N = jax.lax.fori_loop(0, POWER_ITERATIONS, multiply, tied)
    squares = jnp.sum(vector_N**2)
    value = jnp.dot(vector_N, product(vector_N)) / jnp.where(squares > 0, squares, 1)
    return jnp.where(value > 0.0, MARGIN * value, 1.0)


def _as_pursuit(rounds: Rounds[_Weights], pool: Pool, options: Options) -> Pursuit:
    """The picks' weights in the form that matching pursuit keeps them in."""
    filled_K = rounds.indices >= 0
    traces = jax.vmap(pool.gram.trace)(rounds.indices)
    traces = jnp.where(filled_K.reshape(-1, *(1,) * (traces.ndim - 1)), traces, 0.0)
    block_KxK = jax.vmap(lambda pick: pool.gram.among(traces, rounds.indices, pick))(rounds.indices)
    block_KxK += options.ridge * jnp.eye(options.size, dtype=jnp.float32)
    support = empty_support(options.size)
    return Pursuit(
        traces=traces,
        residual=rounds.state.residual,
        support=Support(
            gram=jnp.where(filled_K[:, None] & filled_K[None, :], block_KxK, 0.0),
            target=jnp.where(filled_K, pool.alignment[rounds.indices], 0.0),
            weights=jnp.where(filled_K, rounds.state.weights[rounds.indices], 0.0),
            inverse=support.inverse,
            passive=support.passive,
        ),
    )
