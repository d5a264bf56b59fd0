"""The pool as the selector sees it, its budgets, and what becomes of what is selected.

Letters of the shape comments: N pool, A anchors, M feature dimension, P domains.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partitionsel_jax.config.sections import SelectionSettings
from partitionsel_jax.data.rows import Rows
from partitionsel_jax.distributed import spmd
from partitionsel_jax.gradients.features import Features
from partitionsel_jax.selection import Selection, budgets, diagnostics
from partitionsel_jax.selection.budgets import CurriculumState
from partitionsel_jax.step.anchors import Anchors


class RowInfo(NamedTuple):
    """The numbers of the pool's rows that every device has; their tokens stay where they are.

    Attributes:
      domain, id, corrupted: see `Rows`; [N] each.
    """

    domain: jax.Array
    id: jax.Array
    corrupted: jax.Array

    @classmethod
    def of(cls, rows: Rows) -> "RowInfo":
        """The information of these rows."""
        return cls(rows.domain, rows.id, rows.corrupted)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """The pool as the selector sees it, on every device.

    Attributes:
      info: of the N rows.
      losses: f32[N].
      gram: f32[N, N], alignment: f32[N]; see `selection.Problem`.
      anchor_norm: f32[], norm of the anchor direction.
      norms: f32[N], anchor_similarity: f32[N, A], reference_losses, nuclear_norms, novelty: f32[N];
        see there as well; None unless the utility reads them.
      embeddings: f32[N, E], what is remembered of those that are selected; None if nothing is.
      anchor_losses: f32[P], see `anchors.mean_losses`; None unless the budgets follow
        them.
      anchor_shares: f32[P], see `Others`.
      anchors_dropped: i32[], anchors left out because a feature of theirs was not finite; None if
        there are no features.
    """

    info: RowInfo
    losses: jax.Array
    gram: jax.Array
    alignment: jax.Array
    anchor_norm: jax.Array
    norms: jax.Array | None = None
    anchor_similarity: jax.Array | None = None
    reference_losses: jax.Array | None = None
    nuclear_norms: jax.Array | None = None
    novelty: jax.Array | None = None
    embeddings: jax.Array | None = None
    anchor_losses: jax.Array | None = None
    anchor_shares: jax.Array | None = None
    anchors_dropped: jax.Array | None = None

    @classmethod
    def without_features(cls, info: RowInfo, counted_N: jax.Array) -> "Candidates":
        """Candidates known only by bool[N], True for a row with a token that the loss counts."""
        count = counted_N.shape[0]
        return cls(
            info=info,
            losses=jnp.full(count, jnp.nan),
            gram=jnp.zeros((count, count)),
            alignment=jnp.where(counted_N, 0.0, jnp.nan),
            anchor_norm=jnp.zeros(()),
        )


def compare(
    info: RowInfo, pool: Features, anchors: Anchors, settings: SelectionSettings
) -> Candidates:
    """The candidates from the features of all rows; what the utility does not read is left out.

    Args:
      info: of the N rows of the pool.
      pool: features of the N rows.
      anchors: what is known of the anchors.
      settings: what is read of them.
    """
    product = functools.partial(jnp.dot, precision="highest")
    similarity_NxA = None
    if "anchor_similarity" in settings.reads:
        assert anchors.vectors is not None  # as the utility reads them
        similarity_NxA = product(pool.vectors, anchors.vectors.T)
    return Candidates(
        info=info,
        losses=pool.losses,
        gram=product(pool.vectors, pool.vectors.T),
        alignment=product(pool.vectors, anchors.direction),
        anchor_norm=jnp.linalg.norm(anchors.direction),
        norms=pool.norms if "norms" in settings.reads else None,
        anchor_similarity=similarity_NxA,
        anchor_losses=anchors.losses if settings.budgets == "curriculum" else None,
        anchors_dropped=anchors.dropped,
    )


def domain_budgets(
    counts_P: jax.Array,
    settings: SelectionSettings,
    curriculum: CurriculumState | None = None,
    anchor_shares_P: jax.Array | None = None,
) -> jax.Array:
    """This pool's budgets i32[P] under the configured scheme.

    Args:
      counts_P: i32[P], the pool's usable candidates.
      settings: the scheme.
      curriculum: the state of curriculum budgets.
      anchor_shares_P: f32[P], what "anchors" budgets go by.
    """
    if settings.budgets == "curriculum":
        if curriculum is None:
            raise ValueError(
                "budgets='curriculum' need the state of a curriculum, got None; make the training "
                "state with Step.initial"
            )
        chosen = settings.curriculum
        return budgets.curriculum(
            counts_P,
            settings.size,
            curriculum,
            blend=chosen.blend,
            floor=chosen.floor,
            sharpness=chosen.sharpness,
        )
    if settings.budgets == "anchors":
        if anchor_shares_P is None:
            raise ValueError(
                "budgets='anchors' need each domain's share of the anchors, got None; pass them to "
                "the step as `others.anchor_shares`"
            )
        return budgets.fixed(counts_P, settings.size, anchor_shares_P)
    if settings.budgets == "fixed":
        return budgets.fixed(counts_P, settings.size, jnp.asarray(settings.shares))
    if settings.budgets == "temperature":
        return budgets.temperature(counts_P, settings.size, settings.temperature)
    return {
        "proportional": budgets.proportional,
        "uniform": budgets.uniform,
    }[settings.budgets](counts_P, settings.size)


def deal(pool: Rows, info: RowInfo, places_K: jax.Array) -> Rows:
    """This device's contiguous part of the selected rows, [K / devices, ...].

    Args:
      pool: this device's rows.
      info: of all rows.
      places_K: i32[K], what is selected, in the pool of all devices.

    Raises:
      ValueError: the devices do not divide K.
    """
    # One array of both: no token is negative, so that the sign is free to carry the mask.
    packed = spmd.deal(jnp.where(pool.response, ~pool.tokens, pool.tokens), places_K)
    response = packed < 0
    mine = spmd.share(jax.tree.map(lambda leaf: leaf[places_K], info))
    return Rows(jnp.where(response, ~packed, packed), response, **mine._asdict())


def update_weights(picked_K: jax.Array, learned_K: jax.Array, scheme: str, cap: float) -> jax.Array:
    """Weights of the picks in the update, f32[K]: mean 1 over the picks, 0 at padding.

    Args:
      picked_K: bool[K], False at padding.
      learned_K: f32[K], the selector's weights.
      scheme: "uniform"; "learned" (rescaled to mean 1); "clipped" (learned, at most `cap`).
      cap: the largest weight of "clipped", in units of the mean.
    """
    ones_K = picked_K.astype(jnp.float32)
    if scheme == "uniform":
        return ones_K
    count, total = ones_K.sum(), (learned_K * ones_K).sum()
    scaled_K = jnp.where(total > 0, learned_K * ones_K * count / jnp.maximum(total, 1e-30), ones_K)
    return jnp.minimum(scaled_K, cap) if scheme == "clipped" else scaled_K


def describe(
    candidates: Candidates,
    domains_N: jax.Array,
    result: Selection,
    settings: SelectionSettings,
    curriculum: CurriculumState | None,
) -> dict[str, jax.Array]:
    """The record of a selection, for the log.

    Args:
      candidates: the pool.
      domains_N: i32[N], -1 for candidates that were not to be selected.
      result: the selection.
      settings: how it was made.
      curriculum: state of curriculum budgets, or None.
    """
    assert result.budgets is not None and result.candidates is not None  # as `select` gives them
    indices_K, domains = result.indices, result.budgets.shape[0]
    record = {
        "indices": indices_K,
        "weights": result.weights,
        "gains": result.gains,
        "utility": result.utility,
        "certificate": result.certificate,
        "dropped": result.dropped,
        "dropped_ids": jnp.where((domains_N >= 0) & ~result.candidates, candidates.info.id, -1),
        "budgets": result.budgets,
        "pool": jnp.bincount(candidates.info.domain, length=domains),
        "selected": diagnostics.domain_mix(domains_N, indices_K, domains),
        "pool_loss": candidates.losses.mean(where=jnp.isfinite(candidates.losses)),
    }
    if curriculum is not None and candidates.anchor_losses is not None:
        record["anchor_losses"] = candidates.anchor_losses
        record["anchor_gains"] = curriculum.gains
    if settings.needs_features:
        assert candidates.anchors_dropped is not None  # as there are features
        gram, alignment = candidates.gram, candidates.alignment
        limits = domains_N, result.budgets
        if settings.coupling == "agnostic":
            limits = jnp.zeros_like(domains_N), jnp.full((1,), settings.size, jnp.int32)
        record |= {
            "anchors_dropped": candidates.anchors_dropped,
            "conflicting_pairs": diagnostics.conflicting_pairs(gram, indices_K)[1],
            "matching_cosine": diagnostics.matching_cosine(
                gram, alignment, indices_K, result.weights, candidates.anchor_norm
            ),
            "conflicting_weight": diagnostics.conflicting_weight(gram, indices_K, result.weights),
            "redundancy": diagnostics.redundancy(gram, indices_K),
            "top_k_overlap": diagnostics.top_k_overlap(alignment, *limits, indices_K),
        }
    return record
