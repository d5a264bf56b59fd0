"""A step that, once an update was not sound, leaves the state before it as it is.

The host reads a step's record while the next step runs. Were that one carried out, the state that
the failed update started from would be gone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.step.state import TrainState

# Of an update, finite where it is sound.
NORMS = ("loss", "gradient_norm", "update_norm")


def is_sound(record: Mapping[str, Any]) -> jax.Array:
    """bool[], True if an update was finite and had a candidate to select."""
    norms = jnp.stack([jnp.asarray(record[name], jnp.float32) for name in NORMS])
    return jnp.all(jnp.isfinite(norms)) & (jnp.sum(jnp.asarray(record["selected"])) > 0)


def halting(
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`Step.__call__` or the like, but for what it does to a state that has halted: nothing.

    A state halts at the first update that is not sound, and is then that before the update but for
    its step, which is negative; see `before`.
    """

    def run(
        state: TrainState,
        frozen: Any,
        pool: Any,
        anchors: Any,
        seed: jax.Array,
        reference: Any = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        state, halted = before(state), state.step < 0
        after, record = step(state, frozen, pool, anchors, seed, reference)
        goes_on = is_sound(record) & ~halted
        halted_state = dataclasses.replace(state, step=-1 - state.step)
        return jax.tree.map(lambda a, b: jnp.where(goes_on, a, b), after, halted_state), record

    return run


def before(state: TrainState) -> TrainState:
    """The state that a failed update started from; one that has not halted is itself."""
    return dataclasses.replace(state, step=jnp.where(state.step < 0, -1 - state.step, state.step))
