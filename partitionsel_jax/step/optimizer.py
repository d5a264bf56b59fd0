"""AdamW with global-norm clipping and a warm-up, from optax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from partitionsel_jax.config.sections import OptimizerSettings


def make_schedule(settings: OptimizerSettings, updates: int) -> optax.Schedule:
    """Linear warm-up over a share of the run's updates, then constant or linear to zero.

    Returns:
      update count (0-based) -> share of the peak learning rate.
    """
    rising = max(1, round(settings.warmup * updates))
    end = 1.0 if settings.schedule == "constant" else 0.0
    return optax.join_schedules(
        [
            # The first update already moves: the ramp starts one notch above zero.
            optax.linear_schedule(1.0 / rising, 1.0, max(1, rising - 1)),
            optax.linear_schedule(1.0, end, max(1, updates - rising)),
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


class PeakState(NamedTuple):
    """State of `scale_by_peak`: updates done, i32[], and the peak learning rate, f32[]."""

    updates: jax.Array
    peak_learning_rate: jax.Array


def scale_by_peak(schedule: optax.Schedule, learning_rate: float) -> optax.GradientTransformation:
    """`optax.scale_by_learning_rate`, with a peak that lies in the state.

    One compiled update then serves every learning rate, as tuning wants.

    Args:
      schedule: update count -> share of the peak.
      learning_rate: the peak of new states.
    """

    def init(parameters: Any) -> PeakState:
        return PeakState(jnp.zeros((), jnp.int32), jnp.float32(learning_rate))

    def update(changes: Any, state: PeakState, parameters: Any = None) -> tuple[Any, PeakState]:
        rate = schedule(state.updates) * state.peak_learning_rate
        scaled = jax.tree.map(lambda leaf: -rate.astype(leaf.dtype) * leaf, changes)
        return scaled, state._replace(updates=state.updates + 1)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    settings: OptimizerSettings, schedule: optax.Schedule
) -> optax.GradientTransformationExtraArgs:
    """Clips the global norm, then AdamW (arXiv 1711.05101); see `clip_by_norm`, `scale_by_peak`."""
    return optax.chain(
        clip_by_norm(settings.clip),
        optax.scale_by_adam(b1=settings.b1, b2=settings.b2),
        optax.add_decayed_weights(settings.weight_decay),
        scale_by_peak(schedule, settings.learning_rate),
    )


def peak_of(state: Any) -> jax.Array:
    """f32[], the peak learning rate in the state of `make_optimizer`."""
    return optax.tree_utils.tree_get(state, "peak_learning_rate")
