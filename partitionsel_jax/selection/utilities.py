"""Utilities: what makes a set of candidates a good one, each with the solver that maximises it."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import certificate, matroid, refit
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.pursuit import pursue
from partitionsel_jax.selection.swaps import improve


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """What a utility's solver returns; see `Selection` for the fields."""

    indices: jax.Array
    weights: jax.Array
    utility: jax.Array
    certificate: jax.Array


@dataclasses.dataclass(frozen=True)
class Utility:
    """An entry of the registry.

    Attributes:
      solve: (pool, options) -> Solution, on the pool after its coupling.
      refits: whether weights are refitted, which random rules and swaps need.
      draws: whether it draws from `key`, whatever the rule.
      takes_all: whether it only makes sense when `size` is the pool's.
    """

    solve: Callable[[Pool, Options], Solution]
    refits: bool = False
    draws: bool = False
    takes_all: bool = False


def gradient_matching(pool: Pool, options: Options) -> Solution:
    """max <w, s> - w'(K + ridge I)w / 2 over w >= 0, by matching pursuit (PartitionSel, eq. f)."""
    pursuit = pursue(pool, options)
    if options.swaps:
        pursuit = improve(pursuit, pool, options)
    weights = pursuit.support.weights
    utility = refit.utility(pursuit.support)
    bound = certificate.certify(pool, pursuit.indices, weights, utility, options.ridge)
    return Solution(pursuit.indices, weights, utility, bound)


def alignment(pool: Pool, options: Options) -> Solution:
    """The sum of s_i over the picks (LESS-style influence): each domain's top candidates."""
    indices = matroid.best_base(matroid.from_pool(pool), pool.alignment, options.size)
    total = jnp.sum(jnp.where(indices >= 0, pool.alignment[indices], 0.0))
    return _unweighted(indices, total)


def random(pool: Pool, options: Options) -> Solution:
    """A base of the matroid drawn uniformly from `key`."""
    score = options.draw(pool.alignment.shape)
    return _unweighted(matroid.best_base(matroid.from_pool(pool), score, options.size), jnp.nan)


def full(pool: Pool, options: Options) -> Solution:
    """Every candidate that the budgets admit, in index order; `size` must be the pool's."""
    score = jnp.zeros_like(pool.alignment)
    return _unweighted(matroid.best_base(matroid.from_pool(pool), score, options.size), jnp.nan)


def _unweighted(indices: jax.Array, utility: jax.Array | float) -> Solution:
    """A solution with weight 1 at every pick."""
    weights = (indices >= 0).astype(jnp.float32)
    return Solution(
        indices, weights, jnp.asarray(utility, jnp.float32), jnp.asarray(jnp.nan, jnp.float32)
    )


UTILITIES = {
    "gradient_matching": Utility(gradient_matching, refits=True),
    "alignment": Utility(alignment),
    "random": Utility(random, draws=True),
    "full": Utility(full, takes_all=True),
}
