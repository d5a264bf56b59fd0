"""Exact non-negative refit of the weights on a support, by an active-set method.

Maximises U(w) = <w, b> - w'Aw / 2 over w >= 0 for the k x k Gram block A and the alignments b of
the picks (Lawson & Hanson's NNLS in normal-equation form). The inverse M of A on the passive set
(the slots whose weights are free to move) is kept between calls and updated in O(k^2) per change,
so that a warm start usually needs one Newton step. M only steers: what it led to is judged by a
residual from A, and given up for a cold start where rounding in M has worn it out.

A column that depends on the passive set, as far as float32 can tell, is kept out of it while its
residual is about 0 like theirs: its Newton step would be noise of any length. Beyond, it enters
with the least curvature that can be told from none, and the ratio test trades it for another.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.indexing import put, take

# Residual, relative to the pool's largest alignment, below which a KKT condition counts as met.
TOLERANCE = 1e-6
# Error of d'Ad from the rounding of A, relative to (sum_i |d_i| sqrt(A_ii))^2: a curvature no
# larger than that says nothing.
ROUNDING = 2.5e-7
# A fresh residual beyond this many tolerances starts another attempt, from no weights.
ACCEPTED = 4.0
ATTEMPTS = 2
# Tolerances by which the residual of a dependent column must exceed 0 for it to enter.
WORTHWHILE = 5.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Support:
    """k slots for picks, with their weights and the inverse of the Gram block.

    Attributes:
      gram: f32[K, K]; A = K + ridge I on the picks; rows and columns 0 at empty slots.
      target: f32[K]; b, the picks' alignments; 0 at empty slots.
      weights: f32[K], >= 0.
      inverse: f32[K, K]; about the inverse of A on the passive set, 0 elsewhere.
      passive: bool[K]; slots whose weight is free to move; the others' weights are 0.
    """

    gram: jax.Array
    target: jax.Array
    weights: jax.Array
    inverse: jax.Array
    passive: jax.Array


class _Step(NamedTuple):
    """The active set after a Newton step, and the change decided for the next one."""

    weights: jax.Array
    inverse: jax.Array
    passive: jax.Array
    residual: jax.Array
    error: jax.Array
    barred: jax.Array
    slot: jax.Array
    enters: jax.Array
    leaves: jax.Array
    running: jax.Array
    iteration: jax.Array


def empty_support(size: int) -> Support:
    """A support of `size` empty slots."""
    zeros_KxK = jnp.zeros((size, size), jnp.float32)
    zeros_K = jnp.zeros((size,), jnp.float32)
    return Support(zeros_KxK, zeros_K, zeros_K, zeros_KxK, jnp.zeros((size,), bool))


def fill(support: Support, slot: jax.Array, row: jax.Array, target: jax.Array) -> Support:
    """Puts a pick into `slot` (i32[]), whose weight must be 0.

    `row` f32[K] is the pick's row of A, `target` f32[] its alignment.
    """
    return dataclasses.replace(
        support,
        gram=put(put(support.gram, slot, row), slot, row, axis=1),
        target=put(support.target, slot, target),
    )


def refit(support: Support, scale: jax.Array) -> Support:
    """Solves for the weights, from the ones at hand.

    Args:
      support: with K slots; weights, inverse and passive set are the warm start.
      scale: f32[]; largest |alignment| of the pool, to which tolerances are relative.

    Returns:
      The support with weights that meet the KKT conditions: residual = b - Aw is 0 where
      weights > 0 and not above 0 elsewhere, to about `TOLERANCE` times `scale`.
    """
    tolerance = TOLERANCE * scale

    def unmet(state: tuple[Support, jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, _, error, attempt = state
        # Negated, so that an error that is not a number is one.
        met = error <= jnp.where(attempt == 0, tolerance, ACCEPTED * tolerance)
        return ~met & (attempt < ATTEMPTS)

    def solve(
        state: tuple[Support, jax.Array, jax.Array, jax.Array],
    ) -> tuple[Support, jax.Array, jax.Array, jax.Array]:
        kept, residual, error, attempt = state
        warm = attempt == 0
        start = dataclasses.replace(
            kept,
            weights=jnp.where(warm, kept.weights, 0.0),
            inverse=jnp.where(warm, kept.inverse, 0.0),
            passive=kept.passive & warm,
        )
        tried = _active_set(start, jnp.where(warm, residual, kept.target), tolerance)
        residual_tried = _residual(tried)
        error_tried = _error(tried, residual_tried)
        better = ~(error <= error_tried)
        chosen = jax.tree.map(lambda new, old: jnp.where(better, new, old), tried, kept)
        return (
            chosen,
            jnp.where(better, residual_tried, residual),
            jnp.where(better, error_tried, error),
            attempt + 1,
        )

    residual = _residual(support)
    start = (support, residual, _error(support, residual), jnp.int32(0))
    return jax.lax.while_loop(unmet, solve, tie(start, support, scale))[0]


def enter(support: Support, slot: jax.Array, ascent: jax.Array, scale: jax.Array) -> Support:
    """Lets `slot` (i32[]), of weight 0, into the passive set by one bordered Newton step.

    Args:
      support: with K slots, whose other weights are optimal among themselves.
      slot: the new one.
      ascent: f32[]; its residual.
      scale: f32[]; as for `refit`.

    Returns:
      The support after the step, or as it came where the residual is not positive, the slot
      depends on the others, or the step would make a weight negative.
    """
    column = take(support.gram, slot)
    solved = _solved(support, column)
    here_K = jnp.arange(column.shape[0]) == slot
    diagonal = take(column, slot)
    schur = diagonal - jnp.dot(column, solved)
    rising = solved - here_K
    independent = schur > _rounding(support, rising)
    factor = jnp.where(independent, 1.0 / jnp.where(independent, schur, 1.0), 0.0)
    weights = support.weights - ascent * factor * rising
    sound = (ascent > TOLERANCE * scale) & independent & (jnp.min(weights) >= 0.0)
    factor = jnp.where(sound, factor, 0.0)
    return dataclasses.replace(
        support,
        weights=jnp.where(sound, weights, support.weights),
        inverse=support.inverse + (factor * rising)[:, None] * rising[None, :],
        passive=support.passive | (here_K & sound),
    )


def unsettled(support: Support, residual: jax.Array, scale: jax.Array) -> jax.Array:
    """True if `residual`, f32[K] = b - Aw, breaks a KKT condition by more than `TOLERANCE`."""
    return ~(_error(support, residual) <= TOLERANCE * scale)


def release(support: Support, slot: jax.Array) -> Support:
    """Takes `slot` (i32[]) out of the passive set and sets its weight to 0."""
    inverse, passive, _ = _pivot(support, slot, False, support.passive[slot], False)
    here_K = jnp.arange(support.weights.shape[0]) == slot
    weights = jnp.where(here_K, 0.0, support.weights)
    return dataclasses.replace(support, weights=weights, inverse=inverse, passive=passive)


def contributions(support: Support) -> jax.Array:
    """w_i (b_i + r_i) / 2, f32[K]: what each slot adds to the utility; r is 0 where w is exact."""
    return 0.5 * support.weights * (support.target + _residual(support))


def utility(support: Support) -> jax.Array:
    """U(w) = <w, b> - w'Aw / 2, f32[]."""
    return jnp.sum(contributions(support))


def is_stationary(support: Support, scale: jax.Array) -> jax.Array:
    """True if weights that are free to move have residuals of about 0: else U means nothing."""
    error = _stationarity_error(_residual(support), support.passive)
    return error <= 10.0 * TOLERANCE * scale


def _active_set(support: Support, residual: jax.Array, tolerance: jax.Array) -> Support:
    """Moves slots in and out of the passive set, a Newton step each, until KKT holds."""
    limit = 3 * support.weights.shape[0] + 8
    error = _stationarity_error(residual, support.passive)
    barred = _zero_slots(support)
    slot, violated = _entering(residual, support.passive | barred, tolerance)
    settled = error <= tolerance
    start = _Step(
        weights=support.weights,
        inverse=support.inverse,
        passive=support.passive,
        residual=residual,
        error=error,
        barred=barred,
        slot=slot,
        enters=settled & violated,
        leaves=jnp.zeros_like(settled),
        running=~settled | violated,
        iteration=jnp.zeros_like(slot),
    )
    final = jax.lax.while_loop(
        lambda step: step.running & (step.iteration < limit),
        lambda step: _iterate(step, support, tolerance),
        tie(start, support, residual, tolerance),
    )
    return dataclasses.replace(
        support, weights=final.weights, inverse=final.inverse, passive=final.passive
    )


def _iterate(step: _Step, support: Support, tolerance: jax.Array) -> _Step:
    """Carries out the decided change, takes one Newton step, and decides the next change."""
    support = dataclasses.replace(support, inverse=step.inverse, passive=step.passive)
    needed = step.residual[step.slot] > WORTHWHILE * tolerance
    inverse, passive, admitted = _pivot(support, step.slot, step.enters, step.leaves, needed)
    refused = step.enters & ~admitted
    barred = step.barred | (refused & (jnp.arange(passive.shape[0]) == step.slot))
    direction = inverse @ step.residual
    # An exact line search: the step ascends even where rounding has worn out the inverse.
    turned = support.gram @ direction
    slope, curvature = jnp.dot(step.residual, direction), jnp.dot(direction, turned)
    curvature = jnp.maximum(curvature, _rounding(support, direction))
    length = jnp.maximum(slope, 0.0) / jnp.where(curvature > 0.0, curvature, jnp.inf)
    ratio = jnp.where(direction < 0.0, step.weights / -direction, jnp.inf)
    blocking = jnp.argmin(ratio).astype(jnp.int32)
    blocked = ratio[blocking] < length
    length = jnp.minimum(ratio[blocking], length)
    here_K = jnp.arange(passive.shape[0]) == blocking
    weights = jnp.maximum(step.weights + length * direction, 0.0)
    weights = jnp.where(blocked & here_K, 0.0, weights)
    residual = step.residual - length * turned

    error = _stationarity_error(residual, passive)
    # Rounding sets a floor under the error: stop refining where that no longer helps.
    refined = ~(step.enters | step.leaves)
    settled = (error <= tolerance) | (refined & (error > 0.5 * step.error))
    # A slot that leaves in the step it entered would enter again, for ever.
    bounced = blocked & step.enters & (blocking == step.slot)
    barred = barred | (here_K & bounced)
    slot, violated = _entering(residual, passive | barred, tolerance)
    enters = ~blocked & settled & violated
    return _Step(
        weights=weights,
        inverse=inverse,
        passive=passive,
        residual=residual,
        error=error,
        barred=barred,
        slot=jnp.where(blocked, blocking, slot),
        enters=enters,
        leaves=blocked,
        running=blocked | enters | ~settled,
        iteration=step.iteration + 1,
    )


def _pivot(
    support: Support,
    slot: jax.Array,
    enters: jax.Array | bool,
    leaves: jax.Array | bool,
    needed: jax.Array | bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The inverse and the passive set after `slot` enters, leaves, or neither.

    Also whether the slot may enter: if its column is independent of the passive set's, or `needed`.
    """
    inverse, passive = support.inverse, support.passive
    here_K = jnp.arange(passive.shape[0]) == slot
    solved = _solved(support, support.gram[slot])
    rising = solved - here_K
    schur = jnp.dot(rising, support.gram @ rising)
    rounding = _rounding(support, rising)
    admitted = (schur > rounding) | needed
    schur = jnp.maximum(schur, rounding)
    enters = enters & admitted
    vector = jnp.where(enters, rising, inverse[slot])
    divisor = jnp.where(enters, schur, -inverse[slot, slot])
    # A diagonal with the wrong sign is rounding: what comes of it will be found wrong.
    sound = jnp.where(enters, divisor > 0.0, leaves & (divisor < 0.0))
    factor = jnp.where(sound, 1.0 / jnp.where(sound, divisor, 1.0), 0.0)
    passive = jnp.where(here_K, (passive | enters) & jnp.logical_not(leaves), passive)
    updated = inverse + (factor * vector)[:, None] * vector[None, :]
    inverse = jnp.where(passive[:, None] & passive[None, :], updated, 0.0)
    return inverse, passive, admitted


def _rounding(support: Support, direction: jax.Array) -> jax.Array:
    """The error that direction'A direction may have in float32, f32[]."""
    length_K = jnp.sqrt(jnp.maximum(jnp.diagonal(support.gram), 0.0))
    return ROUNDING * jnp.dot(jnp.abs(direction), length_K) ** 2


def _solved(support: Support, column: jax.Array) -> jax.Array:
    """A^-1 `column` on the passive set, f32[K]; 0 elsewhere."""
    # One refinement keeps the errors of the inverse from feeding on themselves.
    solved = support.inverse @ column
    return solved + support.inverse @ (column - support.gram @ solved)


def _residual(support: Support) -> jax.Array:
    """b - Aw, f32[K]."""
    return support.target - support.gram @ support.weights


def _error(support: Support, residual: jax.Array) -> jax.Array:
    """Largest violation of the KKT conditions, f32[], given `residual` = b - Aw."""
    ascent = jnp.where(_zero_slots(support), 0.0, residual)
    return jnp.max(jnp.where(support.passive, jnp.abs(residual), jnp.maximum(ascent, 0.0)))


def _stationarity_error(residual: jax.Array, passive: jax.Array) -> jax.Array:
    """Largest violation of stationarity on the passive set."""
    return jnp.max(jnp.where(passive, jnp.abs(residual), 0.0))


def _zero_slots(support: Support) -> jax.Array:
    """Slots that can carry no weight: empty ones, and zero gradients."""
    return jnp.diagonal(support.gram) <= 0.0


def _entering(
    residual: jax.Array, excluded: jax.Array, tolerance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The slot whose weight should most of all rise from 0, and whether it should at all."""
    score = jnp.where(excluded, -jnp.inf, residual)
    slot = jnp.argmax(score).astype(jnp.int32)
    return slot, score[slot] > tolerance
