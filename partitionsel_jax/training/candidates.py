"""The pool as the selector sees it, made from what is known of its rows and of the anchors.

Letters of the shape comments: N pool, A anchors, M feature dimension, P domains.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from partitionsel_jax.data.rows import Rows
from partitionsel_jax.gradients.features import Features
from partitionsel_jax.training.sections import SelectionSettings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """The pool as the selector sees it, on every device.

    Attributes:
      rows: the N rows themselves.
      losses: f32[N].
      gram: f32[N, N], alignment: f32[N]; see `selection.Problem`.
      anchor_norm: f32[], norm of the anchor direction.
      norms: f32[N], anchor_similarity: f32[N, A], reference_losses: f32[N]; see there as well;
        None unless the utility reads them.
      anchor_losses: f32[P], see `mean_losses`; None unless the budgets follow them.
      anchors_dropped: i32[], anchors left out because a feature of theirs was not finite; None if
        there are no features.
    """

    rows: Rows
    losses: jax.Array
    gram: jax.Array
    alignment: jax.Array
    anchor_norm: jax.Array
    norms: jax.Array | None = None
    anchor_similarity: jax.Array | None = None
    reference_losses: jax.Array | None = None
    anchor_losses: jax.Array | None = None
    anchors_dropped: jax.Array | None = None


def anchor_direction(
    vectors_AxM: jax.Array, domains_A: jax.Array, domains: int, mean: str
) -> jax.Array:
    """Mean of the anchors' features, f32[M]; anchors with a non-finite feature are left out.

    With no anchor left it is NaN, so that nothing is selected by it.

    Args:
      vectors_AxM: f32[A, M].
      domains_A: i32[A].
      domains: P.
      mean: "plain", or "balanced" to give every domain with an anchor the same weight.
    """
    finite_A = jnp.all(jnp.isfinite(vectors_AxM), axis=1)
    weights_A = finite_A.astype(jnp.float32)
    if mean == "balanced":
        counts_P = jax.ops.segment_sum(weights_A, domains_A, domains)
        weights_A = weights_A / jnp.maximum(counts_P, 1.0)[domains_A]
    weights_A = weights_A / jnp.maximum(weights_A.sum(), 1e-30)
    clean_AxM = jnp.where(finite_A[:, None], vectors_AxM, 0.0)
    direction_M = jnp.dot(weights_A, clean_AxM, precision="highest")
    return jnp.where(jnp.any(finite_A), direction_M, jnp.nan)


def mean_losses(losses_A: jax.Array, domains_A: jax.Array, domains: int) -> jax.Array:
    """Mean loss of each domain's anchors, f32[P]; nan for a domain without a finite loss.

    Args:
      losses_A: f32[A]; those that are not finite are left out.
      domains_A: i32[A].
      domains: P.
    """
    sound_A = jnp.isfinite(losses_A)
    totals_P = jax.ops.segment_sum(jnp.where(sound_A, losses_A, 0.0), domains_A, domains)
    counts_P = jax.ops.segment_sum(sound_A.astype(jnp.float32), domains_A, domains)
    return totals_P / counts_P


def compare(
    rows: Rows,
    domains_A: jax.Array,
    pool: Features,
    anchors: Features,
    *,
    settings: SelectionSettings,
    domains: int,
) -> Candidates:
    """The candidates from the features of all rows; what the utility does not read is left out.

    Args:
      rows: the N rows of the pool.
      domains_A: i32[A]; domains of the anchors.
      pool: features of the N rows.
      anchors: features of the A anchors.
      settings: what is read of them.
      domains: P.
    """
    product = functools.partial(jnp.dot, precision="highest")
    anchor_M = anchor_direction(anchors.vectors, domains_A, domains, settings.anchor_mean)
    sound_A = jnp.all(jnp.isfinite(anchors.vectors), axis=1)
    similarity_NxA = anchor_losses_P = None
    if "anchor_similarity" in settings.reads:
        similarity_NxA = product(pool.vectors, anchors.vectors.T)
    if settings.budgets == "curriculum":
        losses_A = jnp.where(sound_A, anchors.losses, jnp.nan)
        anchor_losses_P = mean_losses(losses_A, domains_A, domains)
    return Candidates(
        rows=rows,
        losses=pool.losses,
        gram=product(pool.vectors, pool.vectors.T),
        alignment=product(pool.vectors, anchor_M),
        anchor_norm=jnp.linalg.norm(anchor_M),
        norms=pool.norms if "norms" in settings.reads else None,
        anchor_similarity=similarity_NxA,
        anchor_losses=anchor_losses_P,
        anchors_dropped=jnp.sum(~sound_A, dtype=jnp.int32),
    )
