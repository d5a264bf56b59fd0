"""The curriculum over domains: shares that move to where the anchors' loss falls least.

Every step tells the mean loss of each domain's anchors. From one step to the next, a domain's
*relative gain* is (l_before - l_now) / max(l_before, l_now): in [-1, 1], whatever the loss's scale.
Its exponential moving average g_p tilts the pool's proportional shares c_p,

    tilted_p  is proportional to  c_p exp(-sharpness g_p / max_q |g_q|),

so that equal gains leave them as they are, and only the gains' ratios matter.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from partitionsel_jax.selection.carries import tie
from partitionsel_jax.selection.problem import is_concrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CurriculumState:
    """The memory of the anchors' losses.

    Attributes:
      losses: f32[P]; every domain's last sound anchor loss, nan before the first.
      gains: f32[P]; moving average of the relative gains; 0 before the first.
      weights: f32[P] in [0, 1]; weight of the gains that the average has seen, 0 before the first.
        The average is over these alone: it does not start from a guess.
    """

    losses: jax.Array
    gains: jax.Array
    weights: jax.Array


def curriculum_start(domain_count: int) -> CurriculumState:
    """The state before anything was seen, of `domain_count` >= 1 domains."""
    if domain_count < 1:
        raise ValueError(f"domain_count must be at least 1, got {domain_count}; count the domains.")
    zeros_P = jnp.zeros((domain_count,), jnp.float32)
    # Arrays of their own, so that a step may take all their buffers.
    return CurriculumState(jnp.full_like(zeros_P, jnp.nan), zeros_P, jnp.zeros_like(zeros_P))


def curriculum_update(
    state: CurriculumState, anchor_losses: jax.Array, decay: jax.Array | float = 0.9
) -> CurriculumState:
    """The state after one step's anchor losses.

    Args:
      state: of P domains.
      anchor_losses: f32[P], >= 0; mean loss of each domain's anchors. A domain whose entry is not
        finite is left as it was: it had no sound anchor.
      decay: f32[] in [0, 1); weight of the past in the moving average.

    Returns:
      The next state.

    Raises:
      ValueError: shapes that disagree; where concrete: negative losses, or a decay out of range.
    """
    if np.shape(anchor_losses) != state.losses.shape:
        raise ValueError(
            f"anchor_losses must have shape {state.losses.shape} like the state, got "
            f"{np.shape(anchor_losses)}; give one mean loss per domain, nan for none."
        )
    if is_concrete(anchor_losses) and np.any(np.asarray(anchor_losses) < 0.0):
        raise ValueError(
            f"anchor_losses must be >= 0, got {np.asarray(anchor_losses).tolist()}; relative gains "
            "need a loss that is bounded below by 0."
        )
    check_share("decay", decay, below_one=True)
    now_P = jnp.asarray(anchor_losses, jnp.float32)
    sound_P = jnp.isfinite(now_P)
    compared_P = sound_P & jnp.isfinite(state.losses)
    larger_P = jnp.maximum(now_P, state.losses)
    positive_P = compared_P & (larger_P > 0.0)
    gain_P = jnp.where(
        positive_P, (state.losses - now_P) / jnp.where(positive_P, larger_P, 1.0), 0.0
    )
    rest = 1.0 - jnp.asarray(decay, jnp.float32)
    weights_P = state.weights + rest * (1.0 - state.weights)
    gains_P = state.gains + rest / weights_P * (gain_P - state.gains)
    return CurriculumState(
        losses=jnp.where(sound_P, now_P, state.losses),
        gains=jnp.where(compared_P, gains_P, state.gains),
        weights=jnp.where(compared_P, weights_P, state.weights),
    )


def shares(
    counts: jax.Array,
    state: CurriculumState,
    blend: jax.Array,
    floor: jax.Array,
    sharpness: jax.Array,
) -> jax.Array:
    """Every domain's share of the picks, f32[P] that sum to 1 (0 where all counts are).

    Args:
      counts: i32[P]; candidates per domain.
      state: of P domains; one without a gain yet counts as an average one.
      blend: f32[] in [0, 1]; 0 is proportional, 1 tilted.
      floor: f32[] in [0, 1/P]; the smallest share of a domain with candidates.
      sharpness: f32[], >= 0.
    """
    seen_P = state.weights > 0.0
    mean = jnp.sum(jnp.where(seen_P, state.gains, 0.0)) / jnp.maximum(jnp.sum(seen_P), 1)
    gain_P = jnp.where(seen_P, state.gains, mean)
    largest = jnp.max(jnp.abs(gain_P))
    relative_P = gain_P / jnp.where(largest > 0.0, largest, 1.0)
    held_P = counts.astype(jnp.float32)
    # The least gain is taken off first, so that no exponential overflows.
    tilted_P = held_P * jnp.exp(-sharpness * (relative_P - jnp.min(relative_P)))
    mixed_P = (1.0 - blend) * _normalised(held_P) + blend * _normalised(tilted_P)
    return _raised(mixed_P, jnp.where(counts > 0, floor, 0.0))


def _normalised(values: jax.Array) -> jax.Array:
    total = jnp.sum(values)
    return values / jnp.where(total > 0.0, total, 1.0)


def _raised(shares_P: jax.Array, floor_P: jax.Array) -> jax.Array:
    """max(floor_p, level * share_p), the level such that the sum stays 1."""

    def lower(_: jax.Array, level: jax.Array) -> jax.Array:
        held_up = level * shares_P <= floor_P
        free = jnp.sum(jnp.where(held_up, 0.0, shares_P))
        left = 1.0 - jnp.sum(jnp.where(held_up, floor_P, 0.0))
        return jnp.where(free > 0.0, left / jnp.where(free > 0.0, free, 1.0), level)

    # The level only falls, and every fall lifts at least one domain more onto its floor.
    start = tie(jnp.ones((), jnp.float32), shares_P, floor_P)
    level = jax.lax.fori_loop(0, shares_P.shape[0], lower, start)
    return jnp.maximum(floor_P, level * shares_P)


def check_share(name: str, value: jax.Array | float, *, below_one: bool = False) -> None:
    """Checks that `value` is a scalar in [0, 1], or in [0, 1); tracers need only be scalars."""
    upper = "1)" if below_one else "1]"
    valid = np.shape(value) == ()
    if valid and is_concrete(value):
        host = float(np.asarray(value))
        valid = 0.0 <= host < 1.0 if below_one else 0.0 <= host <= 1.0
    if not valid:
        raise ValueError(f"{name} must be a scalar in [0, {upper}, got {value}; it is a share.")
