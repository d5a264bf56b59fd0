"""What every utility is to `select`, and what its solver answers."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.problem import Options, Pool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """What a utility's solver returns; see `Selection` for the fields."""

    indices: jax.Array
    weights: jax.Array
    utility: jax.Array
    certificate: jax.Array
    gains: jax.Array


@dataclasses.dataclass(frozen=True)
class Utility:
    """An entry of the registry.

    Attributes:
      solve: (pool, options) -> Solution, on the pool after its coupling.
      rules: the rules that make sense with it. A score that does not depend on the other picks is
        ranked once, and leaves nothing to draw.
      refits: whether it has weights, which swaps and the named solvers need.
      draws: whether it draws from `key`, whatever the rule.
      takes_all: whether it only makes sense when `size` is the pool's.
      needs: the fields of `Problem` that may be None and that it reads.
      also_reads: those that it reads where they are given.
      gradients: whether it reads alignment or Gram matrix.
    """

    solve: Callable[[Pool, Options], Solution]
    rules: tuple[str, ...] = ("greedy",)
    refits: bool = False
    draws: bool = False
    takes_all: bool = False
    needs: tuple[str, ...] = ()
    also_reads: tuple[str, ...] = ()
    gradients: bool = True


def unweighted(
    indices: jax.Array, gains: jax.Array, utility: jax.Array | float | None = None
) -> Solution:
    """A solution with weight 1 at every pick and no certificate; its utility is that of its gains.

    Args:
      indices: i32[K]; the picks.
      gains: f32[K]; what each of them adds.
      utility: f32[], where that is not the sum of the gains.
    """
    nan = jnp.asarray(jnp.nan, jnp.float32)
    return Solution(
        indices=indices,
        weights=(indices >= 0).astype(jnp.float32),
        utility=jnp.sum(gains) if utility is None else jnp.asarray(utility, jnp.float32),
        certificate=nan,
        gains=gains,
    )
