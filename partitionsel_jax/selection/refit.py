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

from partitionsel_jax.selection.arrays import put, take, tie

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


class _Attempt(NamedTuple):
    """A refit, its residual b - Aw, the largest violation in it, and the attempts made so far."""

    support: Support
    residual: jax.Array
    error: jax.Array
    made: jax.Array


class _Step(NamedTuple):
    """The active set after a Newton step, and the change decided for the next one.

    `error` is that of stationarity, `barred` are the slots that may not enter any more; `slot`
    `enters` the passive set, or `leaves` it, or neither; `running` until nothing is left to do.
    """

    support: Support
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

    def unmet(best: _Attempt) -> jax.Array:
        # Negated, so that an error that is not a number is one.
        met = best.error <= jnp.where(best.made == 0, tolerance, ACCEPTED * tolerance)
        return ~met & (best.made < ATTEMPTS)

    def attempt(best: _Attempt) -> _Attempt:
        """The better of the weights so far and of those found from a warm, later a cold start."""
        warm = best.made == 0
        start = dataclasses.replace(
            best.support,
            weights=jnp.where(warm, best.support.weights, 0.0),
            inverse=jnp.where(warm, best.support.inverse, 0.0),
            passive=best.support.passive & warm,
        )
        found = _active_set(start, jnp.where(warm, best.residual, best.support.target), tolerance)
        residual = found.target - found.gram @ found.weights
        error = violation(found, residual)
        better = ~(best.error <= error)
        found, residual, error = jax.tree.map(
            lambda new, old: jnp.where(better, new, old),
            (found, residual, error),
            (best.support, best.residual, best.error),
        )
        return _Attempt(found, residual, error, best.made + 1)

    residual = support.target - support.gram @ support.weights
    start = _Attempt(support, residual, violation(support, residual), jnp.int32(0))
    return jax.lax.while_loop(unmet, attempt, tie(start, support, scale)).support


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


def release(support: Support, slot: jax.Array) -> Support:
    """Takes `slot` (i32[]) out of the passive set and sets its weight to 0."""
    support, _ = _pivot(support, slot, False, support.passive[slot], False)
    here_K = jnp.arange(support.weights.shape[0]) == slot
    return dataclasses.replace(support, weights=jnp.where(here_K, 0.0, support.weights))


def contributions(support: Support) -> jax.Array:
    """w_i (b_i + r_i) / 2, f32[K]: what each slot adds to the utility; r is 0 where w is exact."""
    residual = support.target - support.gram @ support.weights
    return 0.5 * support.weights * (support.target + residual)


def utility(support: Support) -> jax.Array:
    """U(w) = <w, b> - w'Aw / 2, f32[]."""
    return jnp.sum(contributions(support))


def violation(support: Support, residual: jax.Array) -> jax.Array:
    """Largest violation of the KKT conditions, f32[], given `residual` f32[K] = b - Aw."""
    ascent = jnp.where(_powerless(support), 0.0, residual)
    return jnp.max(jnp.where(support.passive, jnp.abs(residual), jnp.maximum(ascent, 0.0)))


def is_stationary(support: Support, scale: jax.Array) -> jax.Array:
    """True if weights that are free to move have residuals of about 0: else U means nothing."""
    residual = support.target - support.gram @ support.weights
    return _instability(residual, support.passive) <= 10.0 * TOLERANCE * scale


def _active_set(support: Support, residual: jax.Array, tolerance: jax.Array) -> Support:
    """Moves slots in and out of the passive set, a Newton step each, until KKT holds."""
    limit = 3 * support.weights.shape[0] + 8
    error = _instability(residual, support.passive)
    barred = _powerless(support)
    slot, violated = _entering(residual, support.passive | barred, tolerance)
    settled = error <= tolerance
    start = _Step(
        support=support,
        residual=residual,
        error=error,
        barred=barred,
        slot=slot,
        enters=settled & violated,
        leaves=jnp.zeros_like(settled),
        running=~settled | violated,
        iteration=jnp.zeros_like(slot),
    )

    def iterate(step: _Step) -> _Step:
        """Carries out the decided change, takes one Newton step, and decides the next change."""
        needed = step.residual[step.slot] > WORTHWHILE * tolerance
        support, admitted = _pivot(step.support, step.slot, step.enters, step.leaves, needed)
        iota_K = jnp.arange(support.passive.shape[0])
        barred = step.barred | (step.enters & ~admitted & (iota_K == step.slot))
        direction = support.inverse @ step.residual
        # An exact line search: the step ascends even where rounding has worn out the inverse.
        turned = support.gram @ direction
        slope, curvature = jnp.dot(step.residual, direction), jnp.dot(direction, turned)
        curvature = jnp.maximum(curvature, _rounding(support, direction))
        length = jnp.maximum(slope, 0.0) / jnp.where(curvature > 0.0, curvature, jnp.inf)
        # The ratio test: the first weight that would become negative ends the step.
        ratio = jnp.where(direction < 0.0, support.weights / -direction, jnp.inf)
        blocking = jnp.argmin(ratio).astype(jnp.int32)
        blocked = ratio[blocking] < length
        length = jnp.minimum(ratio[blocking], length)
        weights = jnp.maximum(support.weights + length * direction, 0.0)
        weights = jnp.where(blocked & (iota_K == blocking), 0.0, weights)
        residual = step.residual - length * turned

        error = _instability(residual, support.passive)
        # Rounding sets a floor under the error: stop refining where that no longer helps.
        refined = ~(step.enters | step.leaves)
        settled = (error <= tolerance) | (refined & (error > 0.5 * step.error))
        # A slot that leaves in the step it entered would enter again, for ever.
        bounced = blocked & step.enters & (blocking == step.slot)
        barred = barred | ((iota_K == blocking) & bounced)
        slot, violated = _entering(residual, support.passive | barred, tolerance)
        enters = ~blocked & settled & violated
        return _Step(
            support=dataclasses.replace(support, weights=weights),
            residual=residual,
            error=error,
            barred=barred,
            slot=jnp.where(blocked, blocking, slot),
            enters=enters,
            leaves=blocked,
            running=blocked | enters | ~settled,
            iteration=step.iteration + 1,
        )

    final = jax.lax.while_loop(
        lambda step: step.running & (step.iteration < limit),
        iterate,
        tie(start, support, residual, tolerance),
    )
    return final.support


def _pivot(
    support: Support,
    slot: jax.Array,
    enters: jax.Array | bool,
    leaves: jax.Array | bool,
    needed: jax.Array | bool,
) -> tuple[Support, jax.Array]:
    """The support, its weights as they are, after `slot` enters, leaves, or neither.

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
    return dataclasses.replace(support, inverse=inverse, passive=passive), admitted


def _rounding(support: Support, direction: jax.Array) -> jax.Array:
    """The error that direction'A direction may have in float32, f32[]."""
    length_K = jnp.sqrt(jnp.maximum(jnp.diagonal(support.gram), 0.0))
    return ROUNDING * jnp.dot(jnp.abs(direction), length_K) ** 2


def _solved(support: Support, column: jax.Array) -> jax.Array:
    """A^-1 `column` on the passive set, f32[K]; 0 elsewhere."""
    # One refinement keeps the errors of the inverse from feeding on themselves.
    solved = support.inverse @ column
    return solved + support.inverse @ (column - support.gram @ solved)


def _instability(residual: jax.Array, passive: jax.Array) -> jax.Array:
    """Largest violation of stationarity on the passive set."""
    return jnp.max(jnp.where(passive, jnp.abs(residual), 0.0))


def _powerless(support: Support) -> jax.Array:
    """Slots that can carry no weight, bool[K]: empty ones, and zero gradients."""
    powerless: jax.Array = jnp.diagonal(support.gram) <= 0.0
    return powerless


def _entering(
    residual: jax.Array, excluded: jax.Array, tolerance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The slot whose weight should most of all rise from 0, and whether it should at all."""
    score = jnp.where(excluded, -jnp.inf, residual)
    slot = jnp.argmax(score).astype(jnp.int32)
    return slot, score[slot] > tolerance
