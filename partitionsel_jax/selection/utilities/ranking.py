"""Utilities whose score does not depend on the other picks: each domain's top candidates."""

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import matroid
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.utilities.utility import Solution, unweighted


def alignment(pool: Pool, options: Options) -> Solution:
    """The sum of s_i over the picks (LESS-style influence)."""
    return _top(pool, options, pool.alignment)


def grad_norm(pool: Pool, options: Options) -> Solution:
    """The sum of the gradient norms over the picks (GradNorm).

    `Problem.norms` where given: features that were scaled to unit norm have all the same one.
    """
    norm_N = pool.norms
    if norm_N is None:
        norm_N = jnp.sqrt(jnp.maximum(pool.gram.diagonal(), 0.0))
    return _top(pool, options, norm_N)


def loss(pool: Pool, options: Options) -> Solution:
    """The sum of the losses over the picks (MaxLoss)."""
    assert pool.losses is not None  # `select` has seen to it
    return _top(pool, options, pool.losses)


def reducible_loss(pool: Pool, options: Options) -> Solution:
    """The sum over the picks of loss less the reference model's loss (RHO-LOSS)."""
    assert pool.losses is not None  # `select` has seen to it
    reference_N = 0.0 if pool.reference_losses is None else pool.reference_losses
    return _top(pool, options, pool.losses - reference_N)


def random(pool: Pool, options: Options) -> Solution:
    """A base of the matroid drawn uniformly from `key`."""
    return _worthless(_ranked(pool, options, options.draw(pool.alignment.shape)))


def full(pool: Pool, options: Options) -> Solution:
    """Every candidate that the budgets admit, in index order; `size` must be the pool's."""
    return _worthless(_ranked(pool, options, jnp.zeros_like(pool.alignment)))


def _top(pool: Pool, options: Options, score: jax.Array) -> Solution:
    """The base of greatest total score, and that total."""
    indices = _ranked(pool, options, score)
    return unweighted(indices, jnp.where(indices >= 0, score[indices], 0.0))


def _worthless(indices: jax.Array) -> Solution:
    """Picks of a utility that prefers none to another."""
    return unweighted(indices, None)


def _ranked(pool: Pool, options: Options, score: jax.Array) -> jax.Array:
    return matroid.best_base(matroid.from_pool(pool), score, options.size)
