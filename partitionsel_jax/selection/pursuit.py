"""Gradient matching: orthogonal matching pursuit under the partition matroid, and swaps.

Each of k rounds adds one candidate by the rule, refits the weights on the support exactly, and
renews the gradient r = s - (K + ridge I) w of the utility over the pool. K is read through the
traces of the picks alone, so that a round costs O(k N) beside the refit's O(k^2).

Swaps then exchange one pick for one unpicked candidate, as long as that raises the utility. With
the inverse M of the Gram block, V = M (rows of the picks) predicts *every* exchange at once:
dropping pick t costs w_t^2 / (2 M_tt) and turns the pool's residual into r + V_t w_t / M_tt and the
Schur complement of candidate j into c_j + V_tj^2 / M_tt. The best predicted exchange is carried out
with an exact refit and kept if the utility really grows.

A prediction lets no weight meet its bound, so it is too high, unless a pick of weight 0 comes back
to life. While there are such picks, exchanges are tried even if no gain is predicted.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection import certificate, published, refit
from partitionsel_jax.selection.arrays import put, take, tie
from partitionsel_jax.selection.matroid import Rounds, play
from partitionsel_jax.selection.problem import Options, Pool, Solution
from partitionsel_jax.selection.refit import Support

# Smallest growth of the utility, relative to it, that is worth an exchange. It is well above what
# rounding in float32 can fake.
GROWTH = 1e-5
# Smallest Schur complement, relative to the diagonal, that a prediction divides by.
PIVOT_FLOOR = 3e-5


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


def gradient_matching(pool: Pool, options: Options) -> Solution:
    """max <w, s> - w'(K + ridge I)w / 2 over w >= 0 (PartitionSel's f; GradMatch, IWD)."""
    rounds = SOLVERS[options.solver](pool, options)
    if options.swaps:
        rounds = swap(rounds, pool, options)
    support = rounds.state.support
    gains = refit.contributions(support)
    utility, bound = jnp.sum(gains), None
    if options.certificate:
        matched_N = pool.gram.combine(rounds.state.traces, support.weights)
        bound = certificate.estimate(
            pool, rounds.indices, support.weights, matched_N, utility, options.ridge
        )
    return Solution(rounds.indices, support.weights, gains, utility, bound)


def pursue(pool: Pool, options: Options) -> Rounds[Pursuit]:
    """Runs all the rounds.

    Args:
      pool: with N candidates.
      options: `size` picks, by `rule`, which draws from `key` if it is a random one.

    Returns:
      The selection after `size` rounds. One in which no candidate has a positive residual adds the
      best one with weight 0.
    """

    def add(pursuit: Pursuit, indices: jax.Array, slot: jax.Array, pick: jax.Array) -> Pursuit:
        pursuit = _fill(pursuit, indices, slot, pick, pool, options)
        # Nearly always one bordered Newton step is the whole refit, and the renewed residual, read
        # at the picks, is the proof. Only where it is not, the active set is worked out.
        support = refit.enter(pursuit.support, slot, take(pursuit.residual, pick), pool.scale)
        residual_N = pool.alignment - pool.gram.combine(pursuit.traces, support.weights)
        own_K = take(residual_N, indices) - options.ridge * support.weights
        error = refit.violation(support, jnp.where(indices >= 0, own_K, 0.0))

        def work_out(
            carry: tuple[jax.Array, Support, jax.Array],
        ) -> tuple[jax.Array, Support, jax.Array]:
            support = refit.refit(carry[1], pool.scale)
            residual_N = pool.alignment - pool.gram.combine(pursuit.traces, support.weights)
            return jnp.zeros_like(carry[0]), support, residual_N

        # A loop of at most one turn: unlike a conditional it is skipped under `vmap` too, where no
        # problem of the batch needs it.
        unsettled = ~(error <= refit.TOLERANCE * pool.scale)
        _, support, residual_N = jax.lax.while_loop(
            lambda carry: carry[0], work_out, (unsettled, support, residual_N)
        )
        return Pursuit(pursuit.traces, residual_N, support)

    trace = jax.eval_shape(pool.gram.trace, jnp.int32(0))
    traces = jnp.zeros((options.size, *trace.shape), jnp.float32)
    start = Pursuit(traces, pool.alignment, refit.empty_support(options.size))
    return play(start, lambda pursuit: pursuit.residual, add, pool, options)


def accelerated(pool: Pool, options: Options) -> Rounds[Pursuit]:
    """Runs all the rounds by the published solver, whose weights are as its steps leave them."""
    rounds = published.pursue(pool, options)
    indices, filled_K = rounds.indices, rounds.indices >= 0
    traces = jax.vmap(pool.gram.trace)(indices)
    traces = jnp.where(filled_K.reshape(-1, *(1,) * (traces.ndim - 1)), traces, 0.0)
    block_KxK = jax.vmap(lambda trace: pool.gram.among(traces, indices, trace))(traces)
    block_KxK += options.ridge * jnp.eye(options.size, dtype=jnp.float32)
    support = dataclasses.replace(
        refit.empty_support(options.size),
        gram=jnp.where(filled_K[:, None] & filled_K[None, :], block_KxK, 0.0),
        target=jnp.where(filled_K, take(pool.alignment, indices), 0.0),
        weights=jnp.where(filled_K, take(rounds.state.weights, indices), 0.0),
    )
    state = Pursuit(traces, rounds.state.residual, support)
    return Rounds(indices, rounds.gains, rounds.matroid, state)


# Solvers of gradient matching.
SOLVERS = {"exact": pursue, "published": accelerated}


def _fill(
    pursuit: Pursuit,
    indices: jax.Array,
    slot: jax.Array,
    pick: jax.Array,
    pool: Pool,
    options: Options,
) -> Pursuit:
    """Puts candidate `pick` (i32[], -1 for none) into `slot`, whose weight must be 0."""
    filled = pick >= 0
    here_K = jnp.arange(indices.shape[0]) == slot
    trace = jnp.where(filled, pool.gram.trace(pick), 0.0)
    traces = put(pursuit.traces, slot, trace)
    row_K = pool.gram.among(traces, indices, trace) + jnp.where(here_K, options.ridge, 0.0)
    row_K = jnp.where(filled & (indices >= 0), row_K, 0.0)
    target = jnp.where(filled, take(pool.alignment, pick), 0.0)
    support = refit.fill(pursuit.support, slot, row_K, target)
    return dataclasses.replace(pursuit, traces=traces, support=support)


class _Search(NamedTuple):
    """The swaps so far, the picks' rows of K, what each exchange would gain, and the utility."""

    rounds: Rounds[Pursuit]
    rows: jax.Array
    gains: jax.Array
    utility: jax.Array
    running: jax.Array
    iteration: jax.Array


def swap(rounds: Rounds[Pursuit], pool: Pool, options: Options) -> Rounds[Pursuit]:
    """Exchanges picks until no exchange helps, at most `options.swaps * options.size` times.

    Args:
      rounds: a finished selection.
      pool: with N candidates.
      options: `swaps` sweeps, each as many exchanges tried as there are picks.

    Returns:
      A selection whose domains hold as many picks each, or fill what others left, of a utility no
      less. (`gains` and `matroid.open` are not kept up to date.)
    """

    def exchange(search: _Search) -> _Search:
        current = search.rounds
        best = jnp.argmax(search.gains).astype(jnp.int32)
        slot, pick = jnp.divmod(best, pool.alignment.shape[0])
        gain = search.gains[slot, pick]
        idle = jnp.any((current.indices >= 0) & ~current.state.support.passive)
        promising = (gain > GROWTH * search.utility) | (idle & (gain > -jnp.inf))
        proposal = _exchanged(current, slot, pick, pool, options)
        utility = refit.utility(proposal.state.support)
        better = promising & refit.is_stationary(proposal.state.support, pool.scale)
        better &= utility > search.utility + GROWTH * jnp.abs(search.utility)
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), proposal, current)
        rows = search.rows.at[slot].set(jnp.where(better, pool.gram.row(pick), search.rows[slot]))
        # After a change every prediction is a new one; until then, try no slot twice.
        gains = jax.lax.cond(
            better,
            lambda: _predicted_gains(kept, rows, pool, options),
            lambda: search.gains.at[slot].set(-jnp.inf),
        )
        utility = jnp.where(better, utility, search.utility)
        return _Search(kept, rows, gains, utility, promising, search.iteration + 1)

    rows = pool.gram.rows(rounds.state.traces)
    start = _Search(
        rounds,
        rows,
        _predicted_gains(rounds, rows, pool, options),
        refit.utility(rounds.state.support),
        jnp.any(rounds.indices >= 0),
        jnp.int32(0),
    )
    limit = options.swaps * options.size
    return jax.lax.while_loop(
        lambda search: search.running & (search.iteration < limit), exchange, tie(start, pool)
    ).rounds


def _predicted_gains(
    rounds: Rounds[Pursuit], rows: jax.Array, pool: Pool, options: Options
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
    diagonal = pool.gram.diagonal() + options.ridge
    schur_N = diagonal - jnp.sum(solved_KxN * rows, axis=0)
    scale_K = jnp.where(support.passive, jnp.diagonal(inverse), 1.0)
    factor_K = jnp.where(support.passive, support.weights, 0.0) / scale_K
    residual_KxN = rounds.state.residual[None, :] + factor_K[:, None] * solved_KxN
    schur_KxN = schur_N[None, :] + solved_KxN**2 / scale_K[:, None]
    floor_N = PIVOT_FLOOR * diagonal
    gain = jnp.maximum(residual_KxN, 0.0) ** 2 / jnp.maximum(schur_KxN, floor_N[None, :])
    loss_K = factor_K * support.weights

    filled_K = rounds.indices >= 0
    domain_K = jnp.where(filled_K, pool.domains[rounds.indices], -1)
    iota_N = jnp.arange(pool.alignment.shape[0])
    picked_N = jnp.any(rounds.indices[:, None] == iota_N[None, :], axis=0)
    spare_N = rounds.matroid.remaining[pool.domains] > 0
    fits = (domain_K[:, None] == pool.domains[None, :]) | spare_N[None, :]
    allowed = filled_K[:, None] & fits & (pool.candidates & ~picked_N & (diagonal > 0.0))[None, :]
    return jnp.where(allowed, 0.5 * (gain - loss_K[:, None]), -jnp.inf)


def _exchanged(
    rounds: Rounds[Pursuit], slot: jax.Array, pick: jax.Array, pool: Pool, options: Options
) -> Rounds[Pursuit]:
    """Releases the pick in `slot`, puts candidate `pick` there, and refits."""
    domain = pool.domains[rounds.indices[slot]]
    iota_P = jnp.arange(rounds.matroid.remaining.shape[0])
    remaining = rounds.matroid.remaining + (iota_P == domain) - (iota_P == pool.domains[pick])
    indices = rounds.indices.at[slot].set(pick)
    released = dataclasses.replace(rounds.state, support=refit.release(rounds.state.support, slot))
    filled = _fill(released, indices, slot, pick, pool, options)
    support = refit.refit(filled.support, pool.scale)
    residual_N = pool.alignment - pool.gram.combine(filled.traces, support.weights)
    return dataclasses.replace(
        rounds,
        indices=indices,
        matroid=dataclasses.replace(rounds.matroid, remaining=remaining),
        state=Pursuit(filled.traces, residual_N, support),
    )
