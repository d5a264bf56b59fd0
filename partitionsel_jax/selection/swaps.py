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
from partitionsel_jax.selection.rounds import Rounds

# Smallest growth of the utility, relative to it, that is worth an exchange. It is well above what
# rounding in float32 can fake.
GROWTH = 1e-5
# Smallest Schur complement, relative to the diagonal, that a prediction divides by.
PIVOT_FLOOR = 3e-5


class _Search(NamedTuple):
    rounds: Rounds[Pursuit]
    rows: jax.Array
    gains: jax.Array
    utility: jax.Array
    running: jax.Array
    iteration: jax.Array


def improve(rounds: Rounds[Pursuit], pool: Pool, options: Options) -> Rounds[Pursuit]:
    """Exchanges picks until no exchange helps, at most `options.swaps * options.size` times.

    Args:
      rounds: a finished selection.
      pool: with N candidates.
      options: `swaps` sweeps, each as many exchanges tried as there are picks.

    Returns:
      A selection whose domains hold as many picks each, or fill what others left, of a utility no
      less. (`gains` and `matroid.open` are not kept up to date.)
    """
    limit = options.swaps * options.size
    scale = jnp.max(jnp.abs(pool.alignment))

    def exchange(search: _Search) -> _Search:
        current = search.rounds
        best = jnp.argmax(search.gains).astype(jnp.int32)
        slot, pick = jnp.divmod(best, pool.alignment.shape[0])
        gain = search.gains[slot, pick]
        idle = jnp.any((current.indices >= 0) & ~current.state.support.passive)
        promising = (gain > GROWTH * search.utility) | (idle & (gain > -jnp.inf))
        proposal = _exchange(current, pool, options.ridge, slot, pick, scale)
        utility = refit.utility(proposal.state.support)
        better = promising & refit.is_stationary(proposal.state.support, scale)
        better &= utility > search.utility + GROWTH * jnp.abs(search.utility)
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), proposal, current)
        rows = search.rows.at[slot].set(jnp.where(better, pool.gram.row(pick), search.rows[slot]))
        # After a change every prediction is a new one; until then, try no slot twice.
        gains = jax.lax.cond(
            better,
            lambda: predicted_gains(kept, rows, pool, options.ridge),
            lambda: search.gains.at[slot].set(-jnp.inf),
        )
        utility = jnp.where(better, utility, search.utility)
        return _Search(kept, rows, gains, utility, promising, search.iteration + 1)

    rows = pool.gram.rows(rounds.state.traces)
    start = _Search(
        rounds,
        rows,
        predicted_gains(rounds, rows, pool, options.ridge),
        refit.utility(rounds.state.support),
        jnp.any(rounds.indices >= 0),
        jnp.int32(0),
    )
    final = jax.lax.while_loop(
        lambda search: search.running & (search.iteration < limit), exchange, tie(start, pool)
    )
    return final.rounds


def predicted_gains(
    rounds: Rounds[Pursuit], rows: jax.Array, pool: Pool, ridge: jax.Array
) -> jax.Array:
    """Utility that every exchange would gain if no weight met its bound, f32[K, N].

    `rows` f32[K, N] are the picks' rows of K. -inf marks exchanges that are not allowed: of an
    empty slot, for a candidate that is picked already, or for one of another domain with no budget
    left.
    """
    support = rounds.state.support
    mask_KxK = support.passive[:, None] & support.passive[None, :]
    inverse = jnp.where(mask_KxK, support.inverse, 0.0)
    solved_KxN = inverse @ rows
    diagonal = pool.gram.diagonal() + ridge
    schur_N = diagonal - jnp.sum(solved_KxN * rows, axis=0)
    scale_K = jnp.where(support.passive, jnp.diagonal(inverse), 1.0)
    factor_K = jnp.where(support.passive, support.weights, 0.0) / scale_K
    residual_KxN = rounds.state.residual[None, :] + factor_K[:, None] * solved_KxN
    schur_KxN = schur_N[None, :] + solved_KxN**2 / scale_K[:, None]
    floor_N = PIVOT_FLOOR * diagonal
    gain = jnp.maximum(residual_KxN, 0.0) ** 2 / jnp.maximum(schur_KxN, floor_N[None, :])
    loss_K = factor_K * support.weights
    allowed = _allowed(rounds, pool) & (diagonal > 0.0)[None, :]
    return jnp.where(allowed, 0.5 * (gain - loss_K[:, None]), -jnp.inf)


def _allowed(rounds: Rounds[Pursuit], pool: Pool) -> jax.Array:
    """Exchanges that leave an independent set of unpicked candidates, bool[K, N]."""
    filled_K = rounds.indices >= 0
    domain_K = jnp.where(filled_K, pool.domains[rounds.indices], -1)
    iota_N = jnp.arange(pool.alignment.shape[0])
    picked_N = jnp.any(rounds.indices[:, None] == iota_N[None, :], axis=0)
    spare_N = rounds.matroid.remaining[pool.domains] > 0
    fits = (domain_K[:, None] == pool.domains[None, :]) | spare_N[None, :]
    return filled_K[:, None] & fits & (pool.candidates & ~picked_N)[None, :]


def _exchange(
    rounds: Rounds[Pursuit],
    pool: Pool,
    ridge: jax.Array,
    slot: jax.Array,
    pick: jax.Array,
    scale: jax.Array,
) -> Rounds[Pursuit]:
    """Releases the pick in `slot`, puts candidate `pick` there, and refits."""
    domain = pool.domains[rounds.indices[slot]]
    iota_P = jnp.arange(rounds.matroid.remaining.shape[0])
    remaining = rounds.matroid.remaining + (iota_P == domain) - (iota_P == pool.domains[pick])
    indices = rounds.indices.at[slot].set(pick)
    released = dataclasses.replace(rounds.state, support=refit.release(rounds.state.support, slot))
    return dataclasses.replace(
        rounds,
        indices=indices,
        matroid=dataclasses.replace(rounds.matroid, remaining=remaining),
        state=solve(fill(released, indices, pool, ridge, slot, pick), pool, scale),
    )
