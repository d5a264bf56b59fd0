"""Exact non-negative refit of the weights on a support, by an active-set method.

Maximises U(w) = <w, b> - w'Aw / 2 over w >= 0 for the k x k Gram block A and the alignments b of
the picks (Lawson & Hanson's NNLS in normal-equation form). The inverse M of A on the passive set
(the slots whose weights are free to move) is kept between calls and updated in O(k^2) per change,
so that a warm start usually needs one Newton step. M only steers: residuals come from A, and every
step is an exact line search, so rounding in M slows convergence instead of spoiling the answer.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.indexing import take

# Residual, relative to the pool's largest alignment, below which a KKT condition counts as met.
TOLERANCE = 1e-6
# Smallest Schur pivot relative to the diagonal. A column that depends on the passive set gets this
# pivot instead: its Newton step is then long but finite, and the ratio test trades it for another.
PIVOT_FLOOR = 3e-5
# A fresh residual beyond this many tolerances starts another attempt, with a new inverse.
ACCEPTED = 4.0
ATTEMPTS = 3


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

    def unmet(state: tuple[Support, jax.Array, jax.Array]) -> jax.Array:
        support, residual, attempt = state
        error = _stationarity_error(residual, support.passive)
        _, violated = _entering(residual, support.passive | _zero_slots(support), tolerance)
        retry = error > ACCEPTED * tolerance
        return jnp.where(attempt == 0, violated | (error > tolerance), retry) & (attempt < ATTEMPTS)

    def solve(
        state: tuple[Support, jax.Array, jax.Array],
    ) -> tuple[Support, jax.Array, jax.Array]:
        support, residual, attempt = state
        # Only an inverse that failed once is worth the k updates of a new one.
        support = _renew_inverse(support, jnp.where(attempt > 0, support.weights.shape[0], 0))
        support = _active_set(support, residual, tolerance)
        return support, support.target - support.gram @ support.weights, attempt + 1

    residual = support.target - support.gram @ support.weights
    return jax.lax.while_loop(unmet, solve, tie((support, residual, jnp.int32(0)), support, scale))[
        0
    ]


def enter(support: Support, slot: jax.Array, ascent: jax.Array, scale: jax.Array) -> Support:
    """Lets `slot` (i32[]), of weight 0, into the passive set by one bordered Newton step.

    Args:
      support: with K slots, whose other weights are optimal among themselves.
      slot: the new one.
      ascent: f32[]; its residual.
      scale: f32[]; as for `refit`.

    Returns:
      The support after the step, or as it came where the residual is not positive or the step
      would make a weight negative.
    """
    column = take(support.gram, slot)
    solved = _solved(support, column)
    here_K = jnp.arange(column.shape[0]) == slot
    diagonal = take(column, slot)
    schur = jnp.maximum(diagonal - jnp.dot(column, solved), PIVOT_FLOOR * diagonal)
    length = ascent / jnp.where(schur > 0.0, schur, 1.0)
    rising = solved - here_K
    weights = support.weights - length * rising
    sound = (ascent > TOLERANCE * scale) & (schur > 0.0) & (jnp.min(weights) >= 0.0)
    factor = jnp.where(sound, 1.0 / jnp.where(schur > 0.0, schur, 1.0), 0.0)
    return dataclasses.replace(
        support,
        weights=jnp.where(sound, weights, support.weights),
        inverse=support.inverse + (factor * rising)[:, None] * rising[None, :],
        passive=support.passive | (here_K & sound),
    )


def unsettled(support: Support, residual: jax.Array, scale: jax.Array) -> jax.Array:
    """Whether `residual`, f32[K] = b - Aw, breaks a KKT condition by more than the tolerance."""
    tolerance = TOLERANCE * scale
    ascent = jnp.where(_zero_slots(support), 0.0, residual)
    return jnp.max(jnp.where(support.passive, jnp.abs(residual), ascent)) > tolerance


def release(support: Support, slot: jax.Array) -> Support:
    """Takes `slot` (i32[]) out of the passive set and sets its weight to 0."""
    inverse, passive = _pivot(support, slot, False, support.passive[slot])
    here_K = jnp.arange(support.weights.shape[0]) == slot
    weights = jnp.where(here_K, 0.0, support.weights)
    return dataclasses.replace(support, weights=weights, inverse=inverse, passive=passive)


def contributions(support: Support) -> jax.Array:
    """w_i (b_i + r_i) / 2, f32[K]: what each slot adds to the utility; r is 0 where w is exact."""
    residual = support.target - support.gram @ support.weights
    return 0.5 * support.weights * (support.target + residual)


def utility(support: Support) -> jax.Array:
    """U(w) = <w, b> - w'Aw / 2, f32[]."""
    return jnp.sum(contributions(support))


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
    inverse, passive = _pivot(support, step.slot, step.enters, step.leaves)
    direction = _masked_product(inverse, step.residual, passive)
    # An exact line search: the step ascends even where rounding has spoilt the inverse.
    turned = support.gram @ direction
    slope, curvature = jnp.dot(step.residual, direction), jnp.dot(direction, turned)
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
    barred = step.barred | (here_K & bounced)
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
    support: Support, slot: jax.Array, enters: jax.Array | bool, leaves: jax.Array | bool
) -> tuple[jax.Array, jax.Array]:
    """The inverse and the passive set after `slot` enters, leaves, or neither."""
    inverse, passive = support.inverse, support.passive
    here_K = jnp.arange(passive.shape[0]) == slot
    column = support.gram[slot]
    solved = _solved(support, column)
    rising = solved - here_K
    schur = jnp.maximum(jnp.dot(rising, support.gram @ rising), PIVOT_FLOOR * column[slot])
    vector = jnp.where(enters, rising, inverse[slot])
    divisor = jnp.where(enters, schur, -inverse[slot, slot])
    # A diagonal with the wrong sign is rounding: leave such an inverse to be renewed.
    sound = jnp.where(enters, divisor > 0.0, leaves & (divisor < 0.0))
    factor = jnp.where(sound, 1.0 / divisor, 0.0)
    passive = jnp.where(here_K, (passive | enters) & jnp.logical_not(leaves), passive)
    updated = inverse + (factor * vector)[:, None] * vector[None, :]
    return jnp.where(passive[:, None] & passive[None, :], updated, 0.0), passive


def _solved(support: Support, column: jax.Array) -> jax.Array:
    """A^-1 `column` on the passive set, f32[K]; 0 elsewhere."""
    # One refinement keeps the errors of the inverse from feeding on themselves.
    solved = _masked_product(support.inverse, column, support.passive)
    left = column - support.gram @ solved
    return solved + _masked_product(support.inverse, left, support.passive)


def _renew_inverse(support: Support, count: jax.Array) -> Support:
    """Builds the inverse anew from the first `count` slots, which is all of them or none."""
    positive = support.weights > 0.0
    renew = count > 0
    start = dataclasses.replace(
        support,
        inverse=jnp.where(renew, 0.0, support.inverse),
        passive=jnp.where(renew, False, support.passive),
    )

    def enter(slot: jax.Array, current: Support) -> Support:
        inverse, passive = _pivot(current, slot, positive[slot], False)
        return dataclasses.replace(current, inverse=inverse, passive=passive)

    return jax.lax.fori_loop(0, count, enter, tie(start, support))


def _masked_product(matrix: jax.Array, vector: jax.Array, mask: jax.Array) -> jax.Array:
    """`matrix @ vector` restricted to the rows and columns of `mask`."""
    return jnp.where(mask, matrix @ jnp.where(mask, vector, 0.0), 0.0)


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
