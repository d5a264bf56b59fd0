"""An update on the picks that another run has recorded, instead of selecting.

Letters of the shape comments: K selected.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.selection import Selection, diagnostics
from partitionsel_jax.step.candidates import RowInfo
from partitionsel_jax.step.state import NO_OTHERS, Others, TrainState
from partitionsel_jax.step.step import Step


class Picks(NamedTuple):
    """The rows that one update trains on; an empty slot repeats the first pick, at weight 0.

    Attributes:
      rows: the K picked rows.
      picked: bool[K], False for an empty slot.
      weights, gains: f32[K], the selector's.
    """

    rows: Rows
    picked: Any
    weights: Any
    gains: Any


def update(
    step: Step,
    state: TrainState,
    frozen: Any,
    picks: Picks,
    anchors: Any,
    seed: jax.Array,
    others: Others = NO_OTHERS,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update, as `Step.__call__`, with this device's share of recorded picks for a pool."""
    del anchors, others  # nothing is selected
    dropout = jax.random.fold_in(step.key(seed, "dropout"), state.step)
    rows = picks.rows
    info, picked_K, weights_K, gains_K = spmd.gather(
        (RowInfo.of(rows), picks.picked, picks.weights, picks.gains)
    )
    nothing = jnp.zeros(())
    indices_K = jnp.where(picked_K, jnp.arange(len(picked_K), dtype=jnp.int32), -1)
    result = Selection(
        indices=indices_K,
        weights=weights_K,
        utility=nothing,
        certificate=nothing,
        gains=gains_K,
        dropped=nothing,
    )
    state, record = step.update(state, frozen, rows, info, result, key=dropout)
    del record["corrupted_pool"]  # there is no pool
    return state, record | {
        "weights": weights_K,
        "gains": gains_K,
        "dropped": jnp.zeros((), jnp.int32),
        "dropped_ids": jnp.full(1, -1),
        "selected": diagnostics.domain_mix(info.domain, indices_K, step.domains),
    }
