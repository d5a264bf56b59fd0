"""Swaps: exchanges of one pick for one unpicked candidate, as long as they raise the utility.

With the inverse M of the Gram block, V = M (rows of the picks) predicts *every* exchange at once:
dropping pick t costs w_t^2 / (2 M_tt) and turns the pool's residual into r + V_t w_t / M_tt and the
Schur complement of candidate j into c_j + V_tj^2 / M_tt. The best predicted exchange is then
carried out with an exact refit and kept if the utility really grows.

A prediction lets no weight meet its bound, so it is too high, unless a pick of weight 0 comes back
to life. While there are such picks, exchanges are tried even if no gain is predicted.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import refit
from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.problem import Options, Pool
from partitionsel_jax.selection.pursuit import Pursuit, fill, solve

# Smallest growth of the utility, relative to it, that is worth an exchange. It is well above what
# rounding in float32 can fake.
GROWTH = 1e-5


class _Search(NamedTuple):
    pursuit: Pursuit
    utility: jax.Array
    tried: jax.Array
    running: jax.Array
    iteration: jax.Array


def improve(pursuit: Pursuit, pool: Pool, options: Options) -> Pursuit:
    """Exchanges picks until no exchange helps, at most `options.swaps * options.size` times.

    Args:
      pursuit: a finished selection.
      pool: with N candidates.
      options: `swaps` sweeps, each as many exchanges tried as there are picks.

    Returns:
      A selection whose domains hold as many picks each, or fill what others left, of a utility no
      less. (`matroid.open` is not kept up to date.)
    """
    limit = options.swaps * options.size
    scale = jnp.max(jnp.abs(pool.alignment))

    def exchange(search: _Search) -> _Search:
        current = search.pursuit
        gains_KxN = predicted_gains(current, pool, options.ridge)
        gains_KxN = jnp.where(search.tried[:, None], -jnp.inf, gains_KxN)
        best = jnp.argmax(gains_KxN).astype(jnp.int32)
        slot, pick = jnp.divmod(best, pool.alignment.shape[0])
        gain = gains_KxN[slot, pick]
        idle = jnp.any((current.indices >= 0) & ~current.support.passive)
        promising = (gain > GROWTH * search.utility) | (idle & (gain > -jnp.inf))
        proposal = _exchange(current, pool, options.ridge, slot, pick)
        proposal = solve(proposal, pool, scale)
        utility = refit.utility(proposal.support)
        better = promising & (utility > search.utility + GROWTH * jnp.abs(search.utility))
        # After a change every prediction is a new one; until then, try no slot twice.
        tried = search.tried.at[slot].set(True) & ~better
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), proposal, current)
        utility = jnp.where(better, utility, search.utility)
        return _Search(kept, utility, tried, promising, search.iteration + 1)

    start = _Search(
        pursuit,
        refit.utility(pursuit.support),
        jnp.zeros(pursuit.indices.shape, bool),
        jnp.any(pursuit.indices >= 0),
        jnp.int32(0),
    )
    final = jax.lax.while_loop(
        lambda search: search.running & (search.iteration < limit), exchange, tie(start, pool)
    )
    return final.pursuit


def predicted_gains(pursuit: Pursuit, pool: Pool, ridge: jax.Array) -> jax.Array:
    """Utility that every exchange would gain if no weight met its bound, f32[K, N].

    -inf marks exchanges that are not allowed: of an empty slot, for a candidate that is picked
    already, or for one of another domain with no budget left.
    """
    support = pursuit.support
    mask_KxK = support.passive[:, None] & support.passive[None, :]
    inverse = jnp.where(mask_KxK, support.inverse, 0.0)
    solved_KxN = inverse @ pursuit.rows
    diagonal = jnp.diagonal(pool.gram) + ridge
    schur_N = diagonal - jnp.sum(solved_KxN * pursuit.rows, axis=0)
    scale_K = jnp.where(support.passive, jnp.diagonal(inverse), 1.0)
    factor_K = jnp.where(support.passive, support.weights, 0.0) / scale_K
    residual_KxN = pursuit.residual[None, :] + factor_K[:, None] * solved_KxN
    schur_KxN = schur_N[None, :] + solved_KxN**2 / scale_K[:, None]
    floor_N = refit.PIVOT_FLOOR * diagonal
    gain = jnp.maximum(residual_KxN, 0.0) ** 2 / jnp.maximum(schur_KxN, floor_N[None, :])
    loss_K = factor_K * support.weights
    allowed = _allowed(pursuit, pool) & (diagonal > 0.0)[None, :]
    return jnp.where(allowed, 0.5 * (gain - loss_K[:, None]), -jnp.inf)


def _allowed(pursuit: Pursuit, pool: Pool) -> jax.Array:
    """Exchanges that leave an independent set of unpicked candidates, bool[K, N]."""
    filled_K = pursuit.indices >= 0
    domain_K = jnp.where(filled_K, pool.domains[pursuit.indices], -1)
    iota_N = jnp.arange(pool.alignment.shape[0])
    picked_N = jnp.any(pursuit.indices[:, None] == iota_N[None, :], axis=0)
    spare_N = pursuit.matroid.remaining[pool.domains] > 0
    fits = (domain_K[:, None] == pool.domains[None, :]) | spare_N[None, :]
    return filled_K[:, None] & fits & (pool.candidates & ~picked_N)[None, :]


def _exchange(
    pursuit: Pursuit, pool: Pool, ridge: jax.Array, slot: jax.Array, pick: jax.Array
) -> Pursuit:
    """Releases the pick in `slot` and puts candidate `pick` there, with weight 0."""
    domain = pool.domains[pursuit.indices[slot]]
    iota_P = jnp.arange(pursuit.matroid.remaining.shape[0])
    remaining = pursuit.matroid.remaining + (iota_P == domain) - (iota_P == pool.domains[pick])
    released = dataclasses.replace(
        pursuit,
        support=refit.release(pursuit.support, slot),
        matroid=dataclasses.replace(pursuit.matroid, remaining=remaining),
    )
    return fill(released, pool, ridge, slot, pick)
