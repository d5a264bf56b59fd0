"""How well a step's features stand in for exact gradients, measured on the run itself.

"Exact" is the same scope in the same geometry: whole gradients of whole rows by the reference path,
at the current parameters. What a sketch, a window of the rows, features kept from earlier steps or
a factored preconditioner lose, is the difference.

Letters of the shape comments: N pool, F rows compared, A anchors, M feature dimension.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.selection import diagnostics
from partitionsel_jax.step.candidates import Candidates, RowInfo, deal
from partitionsel_jax.step.state import NO_OTHERS, Others, TrainState
from partitionsel_jax.step.step import Step

# Exact gradients of all compared rows and anchors are held at once.
MAX_BYTES = 4 << 30


def check(step: Step, devices: int) -> None:
    """Makes sure that the comparison that the settings ask for can be made.

    Raises:
      ValueError: rows that the devices do not divide, or gradients that would not fit.
    """
    chosen = step.features
    if not (chosen.fidelity_every and step.selection.needs_features):
        return
    if chosen.fidelity_rows % devices:
        raise ValueError(
            f"features.fidelity_rows={chosen.fidelity_rows} is not divisible by the {devices} "
            f"devices: use {chosen.fidelity_rows + -chosen.fidelity_rows % devices}"
        )
    rows = chosen.fidelity_rows + step.selection.anchors
    coordinates = step.coordinates
    if 4 * rows * coordinates > MAX_BYTES:
        raise ValueError(
            f"features.fidelity_every={chosen.fidelity_every} would hold {rows} gradients of "
            f"{coordinates:,} coordinates, {4 * rows * coordinates / 2**30:.1f} GiB (at most "
            f"{MAX_BYTES / 2**30:.0f}): lower features.fidelity_rows, choose a smaller scope, or "
            "set features.fidelity_every=0"
        )


def compare(
    step: Step,
    state: TrainState,
    frozen: Any,
    pool: Rows,
    anchors: Rows,
    seed: jax.Array,
    others: Others = NO_OTHERS,
) -> dict[str, jax.Array]:
    """Features as configured against exact ones, on the first rows of the pool; per device.

    Args:
      step: the update that is about to be made.
      state, frozen, pool, anchors, seed, others: its arguments.

    Returns:
      f32[] each: "fidelity_gram_error" and "fidelity_alignment_error", relative errors in the
      Frobenius norm; "fidelity_pick_overlap", the share of the picks from exact features that the
      features as configured pick too, from a pool cut to these rows and a size cut in proportion.
    """
    count = step.features.fidelity_rows
    # Of all devices, so that the rows compared do not depend on how many hold them.
    rows = deal(pool, spmd.gather(RowInfo.of(pool)), jnp.arange(count))
    configured, *_ = step.candidates(state, frozen, pool, anchors, others)
    configured = _first(configured, count)
    exact_step, fresh = _restricted(step, exact=True), dataclasses.replace(state, kept=None)
    exact, *_ = exact_step.candidates(fresh, frozen, rows, anchors, others)
    key = jax.random.fold_in(step.key(seed, "selection"), state.step)
    picked, exact_picks = (
        _restricted(step).select(candidates, key, state.curriculum)[0].indices
        for candidates in (configured, exact)
    )
    return {
        "fidelity_gram_error": diagnostics.relative_error(configured.gram, exact.gram),
        "fidelity_alignment_error": diagnostics.relative_error(
            configured.alignment, exact.alignment
        ),
        "fidelity_pick_overlap": diagnostics.pick_overlap(picked, exact_picks),
    }


def _restricted(step: Step, exact: bool = False) -> Step:
    """The step on the compared rows alone; with exact features if asked."""
    features, selection = step.features, step.selection
    rows = features.fidelity_rows
    size = max(1, selection.size * rows // selection.pool)
    if exact:
        adam = features.preconditioner != "none"
        features = dataclasses.replace(
            features,
            path="reference",
            family="identity",
            dim=0,
            tokens=0,
            anchors_every=1,
            preconditioner="adam" if adam else "none",
        )
    return dataclasses.replace(
        step,
        features=features,
        selection=dataclasses.replace(selection, pool=rows, size=size, updates_per_pool=1),
    )


def _first(candidates: Candidates, count: int) -> Candidates:
    """The first candidates of the pool."""

    def cut(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[:count], tree)

    return dataclasses.replace(
        candidates,
        info=cut(candidates.info),
        losses=cut(candidates.losses),
        gram=candidates.gram[:count, :count],
        alignment=cut(candidates.alignment),
        norms=cut(candidates.norms),
        anchor_similarity=cut(candidates.anchor_similarity),
    )
