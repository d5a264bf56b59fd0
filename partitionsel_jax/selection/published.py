"""The published solver of PartitionSel, for comparison and for reproductions.

Algorithm 2 of arXiv 2606.07954 as its code runs it: after every pick the weights are found anew by
a fixed number of accelerated projected gradient steps from zero, over all N candidates with a mask
on the support. It is written with care for speed: one product with K per step, and no output on the
way. The step's length, on which the paper is silent, is the inverse of K's largest eigenvalue.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.arrays import tie
from partitionsel_jax.selection.gram import Product
from partitionsel_jax.selection.matroid import Rounds, play
from partitionsel_jax.selection.problem import Options, Pool

# Gradient steps after every pick.
STEPS = 128
# Products with K that estimate its largest eigenvalue, and the margin on what they find.
POWER_ITERATIONS = 30
MARGIN = 1.05


class Weights(NamedTuple):
    """Weights f32[N] of all candidates, 0 off the support, and the residual f32[N] there."""

    weights: jax.Array
    residual: jax.Array


def pursue(pool: Pool, options: Options) -> Rounds[Weights]:
    """Runs all the rounds; `options.rule` is `residual_random` in the paper."""
    multiply = pool.gram.product()

    def product(weights_N: jax.Array) -> jax.Array:
        return multiply(weights_N) + options.ridge * weights_N

    step = 1.0 / _largest_eigenvalue(product, pool.alignment)
    iota_N = jnp.arange(pool.alignment.shape[0])

    def add(state: Weights, indices: jax.Array, slot: jax.Array, pick: jax.Array) -> Weights:
        support_N = jnp.any(indices[:, None] == iota_N[None, :], axis=0)
        weights_N = _accelerated(product, pool.alignment, support_N, step)
        return Weights(weights_N, pool.alignment - product(weights_N))

    start = Weights(jnp.zeros_like(pool.alignment), pool.alignment)
    return play(start, lambda state: state.residual, add, pool, options)


def _accelerated(
    product: Product, alignment_N: jax.Array, support_N: jax.Array, step: jax.Array
) -> jax.Array:
    """Weights f32[N] after `STEPS` steps of Nesterov's method with projection (FISTA)."""
    Carry = tuple[jax.Array, jax.Array, jax.Array]

    def ascend(_: jax.Array, carry: Carry) -> Carry:
        weights_N, ahead_N, momentum = carry
        gradient_N = alignment_N - product(ahead_N)
        moved_N = jnp.where(support_N, jnp.maximum(ahead_N + step * gradient_N, 0.0), 0.0)
        grown = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * momentum**2))
        return moved_N, moved_N + (momentum - 1.0) / grown * (moved_N - weights_N), grown

    zeros_N = jnp.zeros_like(alignment_N)
    start = tie((zeros_N, zeros_N, jnp.ones((), jnp.float32)), alignment_N, support_N, step)
    final: Carry = jax.lax.fori_loop(0, STEPS, ascend, start)
    return final[0]


def _largest_eigenvalue(product: Product, alignment_N: jax.Array) -> jax.Array:
    """About the largest eigenvalue of K + ridge I, by power iteration; 1 where K is 0."""
    # The least positive normal number of float32.
    tiny = 2.0**-126

    def multiply(_: jax.Array, vector_N: jax.Array) -> jax.Array:
        product_N = product(vector_N)
        return product_N / jnp.maximum(jnp.max(jnp.abs(product_N)), tiny)

    # Uneven, so that it is orthogonal to no eigenvector that symmetry singles out.
    start = 1.0 + 0.1 * jnp.cos(jnp.arange(alignment_N.shape[0], dtype=jnp.float32))
    tied = tie(start, alignment_N, product(start))
    vector_N = jax.lax.fori_loop(0, POWER_ITERATIONS, multiply, tied)
    squares = jnp.sum(vector_N**2)
    value = jnp.dot(vector_N, product(vector_N)) / jnp.where(squares > 0, squares, 1)
    return jnp.where(value > 0.0, MARGIN * value, 1.0)
