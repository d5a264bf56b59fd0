"""Orthogonal matching pursuit under the partition matroid.

Each of k rounds adds one candidate by the rule, refits the weights on the support exactly, and
renews the gradient r = s - (K + ridge I) w of the utility over the pool. K is read through the
traces of the picks alone, so that a round costs O(k N) beside the refit's O(k^2).
"""

import dataclasses

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import refit
from partitionsel_jax.selection.indexing import gather, put, take
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.refit import Support
from partitionsel_jax.selection.rounds import Rounds, play


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pursuit:
    """The state of matching pursuit: its picks' traces, their weights, and the residual.

    Attributes:
      traces: f32[K, ...]; traces of the picks, see `gram`; 0 in empty slots.
      residual: f32[N]; gradient of the utility at the weights. The ridge is left out, as it
        changes the picks' own entries only, which no rule reads.
      support: weights and refit state.
    """

    traces: jax.Array
    residual: jax.Array
    support: Support


def pursue(pool: Pool, options: Options) -> Rounds[Pursuit]:
    """Runs all the rounds.

    Args:
      pool: with N candidates.
      options: `size` picks, by `rule`, which draws from `key` if it is a random one.

    Returns:
      The selection after `size` rounds. One in which no candidate has a positive residual adds the
      best one with weight 0.
    """
    scale = jnp.max(jnp.abs(pool.alignment))

    def add(pursuit: Pursuit, indices: jax.Array, slot: jax.Array, pick: jax.Array) -> Pursuit:
        pursuit = fill(pursuit, indices, pool, options.ridge, slot, pick)
        return extend(pursuit, indices, pool, options.ridge, scale, slot)

    return play(start(pool, options.size), lambda pursuit: pursuit.residual, add, pool, options)


def start(pool: Pool, size: int) -> Pursuit:
    """The state of no picks, with `size` empty slots."""
    return Pursuit(
        traces=jnp.zeros((size, *pool.gram.trace_shape), jnp.float32),
        residual=pool.alignment,
        support=refit.empty_support(size),
    )


def fill(
    pursuit: Pursuit,
    indices: jax.Array,
    pool: Pool,
    ridge: jax.Array,
    slot: jax.Array,
    pick: jax.Array,
) -> Pursuit:
    """Puts candidate `pick` (i32[], -1 for none) into `slot`, whose weight must be 0."""
    filled = pick >= 0
    here_K = jnp.arange(indices.shape[0]) == slot
    trace = jnp.where(filled, pool.gram.trace(pick), 0.0)
    traces = put(pursuit.traces, slot, trace)
    row_K = pool.gram.among(traces, indices, pick) + jnp.where(here_K, ridge, 0.0)
    row_K = jnp.where(filled & (indices >= 0), row_K, 0.0)
    target = jnp.where(filled, take(pool.alignment, pick), 0.0)
    support = refit.fill(pursuit.support, slot, row_K, target)
    return dataclasses.replace(pursuit, traces=traces, support=support)


def extend(
    pursuit: Pursuit,
    indices: jax.Array,
    pool: Pool,
    ridge: jax.Array,
    scale: jax.Array,
    slot: jax.Array,
) -> Pursuit:
    """Refits after `slot` was filled, the others' weights being those of the last refit.

    Nearly always one bordered Newton step is the whole refit, and the renewed residual, read at the
    picks, is the proof. Only where it is not, the active set is worked out.
    """
    support = refit.enter(pursuit.support, slot, take(pursuit.residual, take(indices, slot)), scale)
    residual_N = _residual(pursuit, support, pool)
    residual_K = jnp.where(indices >= 0, gather(residual_N, indices) - ridge * support.weights, 0.0)

    def work_out(carry: tuple) -> tuple:
        support = refit.refit(carry[1], scale)
        return jnp.zeros_like(carry[0]), support, _residual(pursuit, support, pool)

    # A loop of at most one turn: unlike a conditional it is skipped under `vmap` too, where no
    # problem of the batch needs it.
    _, support, residual_N = jax.lax.while_loop(
        lambda carry: carry[0],
        work_out,
        (refit.unsettled(support, residual_K, scale), support, residual_N),
    )
    return dataclasses.replace(pursuit, support=support, residual=residual_N)


def solve(pursuit: Pursuit, pool: Pool, scale: jax.Array) -> Pursuit:
    """Refits the weights on the support and renews the residual over the pool."""
    support = refit.refit(pursuit.support, scale)
    return dataclasses.replace(pursuit, support=support, residual=_residual(pursuit, support, pool))


def _residual(pursuit: Pursuit, support: Support, pool: Pool) -> jax.Array:
    return pool.alignment - pool.gram.combine(pursuit.traces, support.weights)
