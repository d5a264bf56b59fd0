"""The entry that a utility has in the registry, and the answer of its solver."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.problem import Options, Pool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """The answer of a utility's solver; see `Selection` for the fields.

    `utility` and `certificate` are None where there is none: a nan inside a compiled program would
    be an error under `jax_debug_nans`.
    """

    indices: jax.Array
    weights: jax.Array
    utility: jax.Array | None
    certificate: jax.Array | None
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
    indices: jax.Array, gains: jax.Array | None, utility: jax.Array | None = None
) -> Solution:
    """Makes a solution with weight 1 at every pick and no certificate.

    Args:
      indices: i32[K]; the picks.
      gains: f32[K]; what each of them adds; None where there is no utility.
      utility: f32[]; None for the sum of the gains.
    """
    if gains is not None and utility is None:
        utility = jnp.sum(gains)
    return Solution(
        indices=indices,
        weights=(indices >= 0).astype(jnp.float32),
        utility=utility,
        certificate=None,
        gains=jnp.zeros(indices.shape, jnp.float32) if gains is None else gains,
    )
