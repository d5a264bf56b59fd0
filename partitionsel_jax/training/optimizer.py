"""AdamW with global-norm clipping and a warm-up, from optax."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def make_schedule(
    *, learning_rate: float, schedule: str, warmup: float, updates: int
) -> optax.Schedule:
    """Linear warm-up over a share of the updates, then constant or linear to zero.

    Args:
      learning_rate: the peak.
      schedule: "linear" or "constant".
      warmup: share of `updates`, in [0, 1).
      updates: length of the run.

    Returns:
      update count (0-based) -> learning rate.
    """
    rising = max(1, round(warmup * updates))
    end = learning_rate if schedule == "constant" else 0.0
    return optax.join_schedules(
        [
            # The first update already moves: the ramp starts one notch above zero.
            optax.linear_schedule(learning_rate / rising, learning_rate, max(1, rising - 1)),
            optax.linear_schedule(learning_rate, end, max(1, updates - rising)),
        ],
        [rising],
    )


def clip_by_norm(most: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm`, for gradients whose norm the update is given.

    A device that holds a part of a gradient cannot compute the norm of the whole.
    """

    def init(parameters: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(
        gradient: Any, state: optax.EmptyState, parameters: Any = None, *, norm: jax.Array, **_: Any
    ) -> tuple[Any, optax.EmptyState]:
        def clipped(leaf: jax.Array) -> jax.Array:
            return jnp.where(norm < most, leaf, leaf / norm.astype(leaf.dtype) * most)

        return jax.tree.map(clipped, gradient), state

    return optax.GradientTransformationExtraArgs(init, update)


def make_optimizer(
    schedule: optax.Schedule, *, weight_decay: float, clip: float, b1: float, b2: float
) -> optax.GradientTransformationExtraArgs:
    """Clips the global norm to `clip`, then AdamW (arXiv 1711.05101); see `clip_by_norm`."""
    return optax.chain(
        clip_by_norm(clip),
        optax.adamw(schedule, b1=b1, b2=b2, weight_decay=weight_decay),
    )
